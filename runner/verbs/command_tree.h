// The verbs and their options as data, read off the CLI11 tree that parses them: what completions and the man page are
// made of, so that neither can say something else than the program does.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace assay::runner {

struct OptionNode {
  std::vector<std::string> names;    // "--json", "-h"; empty for a positional one
  std::string positional;            // "WHAT"
  std::string value;                 // what it takes: "INT", "auto|always|never"; empty for a flag
  std::vector<std::string> choices;  // of the value, where they are a list
  std::string description;
  bool required = false, repeated = false;
};

struct CommandNode {
  std::vector<std::string> path;     // {"daemon", "stop"}; empty for assay itself
  std::string summary;
  std::vector<OptionNode> options;
  std::vector<CommandNode> commands; // without the hidden ones
  std::string footer;
};

CommandNode command_tree(CLI::App& root);

}  // namespace assay::runner

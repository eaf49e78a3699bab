#include "runner/verbs/command_tree.h"

#include <algorithm>

#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

OptionNode node_of(const CLI::Option& option) {
  OptionNode node;
  for (const std::string& name : option.get_snames()) node.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) node.names.push_back("--" + name);
  if (node.names.empty()) node.positional = option.get_name();
  node.description = option.get_description();
  node.required = option.get_required();
  node.repeated = option.get_items_expected_max() > 1;
  if (option.get_items_expected_max() == 0) return node;
  node.value = option.get_option_text().empty() ? option.get_type_name() : option.get_option_text();
  // "TEXT:{a,b}" is what CLI11 says of a checked set.
  const auto set = node.value.find('{');
  const std::string list = set != std::string::npos ? node.value.substr(set + 1, node.value.find('}') - set - 1)
                           : node.value.find('|') != std::string::npos ? node.value
                                                                       : "";
  for (std::size_t begin = 0; begin < list.size();) {
    const std::size_t end = std::min(list.find_first_of("|,", begin), list.size());
    const std::string word = list.substr(begin, end - begin);
    node.choices.push_back(word.substr(0, word.find("->")));
    begin = end + 1;
  }
  if (const auto colon = node.value.find(':'); colon != std::string::npos && set == std::string::npos)
    node.value.resize(colon);  // "FLOAT:FLOAT in [0 - 1]"
  if (set != std::string::npos) {
    node.value.clear();
    for (const std::string& word : node.choices) node.value += (node.value.empty() ? "" : "|") + word;
  }
  return node;
}

CommandNode node_of(CLI::App& app, std::vector<std::string> path) {
  CommandNode node;
  node.summary = app.get_description();
  node.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options(std::function<bool(CLI::Option*)>()))
    if (!option->get_group().empty()) node.options.push_back(node_of(*option));
  for (CLI::App* sub : app.get_subcommands(std::function<bool(CLI::App*)>([](CLI::App*) { return true; }))) {
    if (sub->get_group().empty() || sub->get_name().empty()) continue;
    std::vector<std::string> longer = path;
    longer.push_back(sub->get_name());
    node.commands.push_back(node_of(*sub, std::move(longer)));
  }
  node.path = std::move(path);
  return node;
}

}  // namespace

CommandNode command_tree(CLI::App& root) { return node_of(root, {}); }

}  // namespace assay::runner

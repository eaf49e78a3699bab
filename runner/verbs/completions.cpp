// Completion scripts for bash, zsh and fish, made of the command tree.
#include <cstdio>
#include <memory>
#include <set>

#include "runner/errors.h"
#include "runner/paths.h"
#include "runner/verbs/command_tree.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

std::string join(const std::vector<std::string>& words, const char* separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

// 'text' for any of the three shells; fish reads '' inside single quotes differently.
std::string quoted(const std::string& text, bool fish = false) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += fish ? "\\'" : "'\\''";
    else if (c == '\\' && fish) out += "\\\\";
    else out += c;
  }
  return out + "'";
}

std::string words_of(const CommandNode& node) {
  std::vector<std::string> words;
  for (const CommandNode& command : node.commands) words.push_back(command.path.back());
  for (const OptionNode& option : node.options) {
    words.insert(words.end(), option.names.begin(), option.names.end());
    if (!option.positional.empty()) words.insert(words.end(), option.choices.begin(), option.choices.end());
  }
  return join(words, " ");
}

bool takes_runs(const CommandNode& node) {
  for (const OptionNode& option : node.options)
    if (!option.positional.empty() && option.choices.empty()) return true;
  return false;
}

template <typename Visit>
void each_command(const CommandNode& node, const Visit& visit) {
  visit(node);
  for (const CommandNode& command : node.commands) each_command(command, visit);
}

// Series, run ids and numbers come from `assay completions words`, which asks the registry and no daemon.
std::string bash(const CommandNode& root) {
  std::string text =
      "# bash completion for assay: source <(assay completions bash)\n"
      "_assay() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= word i words= runs=\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    word=${COMP_WORDS[i]}\n"
      "    case \"$path $word\" in\n";
  each_command(root, [&](const CommandNode& node) {
    if (node.path.empty()) return;
    const std::vector<std::string> parent(node.path.begin(), node.path.end() - 1);
    text += "      " + quoted((parent.empty() ? "" : " " + join(parent, " ")) + " " + node.path.back()) + ") path=" +
            quoted(" " + join(node.path, " ")) + ";;\n";
  });
  text += "    esac\n  done\n  case \"$path:$prev\" in\n";
  each_command(root, [&](const CommandNode& node) {
    for (const OptionNode& option : node.options) {
      if (option.value.empty() || option.names.empty()) continue;
      const std::string prefix = node.path.empty() ? "" : " " + join(node.path, " ");
      for (const std::string& name : option.names)
        text += "    " + quoted(prefix + ":" + name) + ") " +
                (option.choices.empty() ? std::string("compopt -o default 2>/dev/null; COMPREPLY=(); return;;\n")
                                        : "COMPREPLY=($(compgen -W " + quoted(join(option.choices, " ")) +
                                              " -- \"$cur\")); return;;\n");
    }
  });
  text += "  esac\n  case \"$path\" in\n";
  each_command(root, [&](const CommandNode& node) {
    text += "    " + quoted(node.path.empty() ? "" : " " + join(node.path, " ")) + ") words=" + quoted(words_of(node)) +
            (takes_runs(node) ? "; runs=1" : "") + ";;\n";
  });
  text +=
      "  esac\n"
      "  if [[ -n $runs && $cur != -* ]]; then\n"
      "    words+=\" $(assay completions words 2>/dev/null)\"\n"
      "    compopt -o default 2>/dev/null\n"
      "  fi\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
      "}\n"
      "complete -F _assay assay\n";
  return text;
}

std::string zsh_described(const std::string& word, std::string description) {
  std::string out;
  for (const char c : word) out += c == ':' ? "\\:" : std::string(1, c);
  return quoted(out + ":" + description);
}

std::string zsh(const CommandNode& root) {
  std::string text =
      "#compdef assay\n"
      "# zsh completion for assay: source <(assay completions zsh)\n"
      "_assay() {\n"
      "  local cur=${words[CURRENT]} prev=${words[CURRENT-1]} path_= word i runs=\n"
      "  local -a found\n"
      "  for ((i = 2; i < CURRENT; i++)); do\n"
      "    word=${words[i]}\n"
      "    case \"$path_ $word\" in\n";
  each_command(root, [&](const CommandNode& node) {
    if (node.path.empty()) return;
    text += "      " + quoted(" " + join(node.path, " ")) + ") path_=" + quoted(" " + join(node.path, " ")) + ";;\n";
  });
  text += "    esac\n  done\n  case \"$path_:$prev\" in\n";
  each_command(root, [&](const CommandNode& node) {
    for (const OptionNode& option : node.options) {
      if (option.value.empty() || option.names.empty()) continue;
      const std::string prefix = node.path.empty() ? "" : " " + join(node.path, " ");
      for (const std::string& name : option.names)
        text += "    " + quoted(prefix + ":" + name) + ") " +
                (option.choices.empty() ? std::string("_files") : "compadd -- " + join(option.choices, " ")) + "; return;;\n";
    }
  });
  text += "  esac\n  case \"$path_\" in\n";
  each_command(root, [&](const CommandNode& node) {
    text += "    " + quoted(node.path.empty() ? "" : " " + join(node.path, " ")) + ") found=(";
    for (const CommandNode& command : node.commands) text += "\n      " + zsh_described(command.path.back(), command.summary);
    for (const OptionNode& option : node.options) {
      for (const std::string& name : option.names) text += "\n      " + zsh_described(name, option.description);
      if (!option.positional.empty())
        for (const std::string& choice : option.choices) text += "\n      " + zsh_described(choice, option.description);
    }
    text += ")" + std::string(takes_runs(node) ? "; runs=1" : "") + ";;\n";
  });
  text +=
      "  esac\n"
      "  _describe -t commands assay found\n"
      "  if [[ -n $runs && $cur != -* ]]; then\n"
      "    compadd -- ${(f)\"$(assay completions words 2>/dev/null)\"}\n"
      "    _files\n"
      "  fi\n"
      "}\n"
      "if [[ ${funcstack[1]} == _assay ]]; then _assay; else compdef _assay assay; fi\n";
  return text;
}

std::string fish(const CommandNode& root) {
  std::string text =
      "# fish completion for assay: assay completions fish | source\n"
      "function __assay_at\n"
      "  set -l typed (commandline -opc)[2..-1]\n"
      "  set -l path\n"
      "  for word in $typed\n"
      "    switch \"$path $word\"\n";
  each_command(root, [&](const CommandNode& node) {
    if (node.path.empty()) return;
    text += "      case " + quoted(" " + join(node.path, " "), true) + "\n        set path " +
            quoted(" " + join(node.path, " "), true) + "\n";
  });
  text += "    end\n  end\n  test \"$path\" = \"$argv[1]\"\nend\ncomplete -c assay -f\n";
  each_command(root, [&](const CommandNode& node) {
    const std::string at = "complete -c assay -n \"__assay_at '" + (node.path.empty() ? "" : " " + join(node.path, " ")) + "'\"";
    for (const CommandNode& command : node.commands)
      text += at + " -a " + command.path.back() + " -d " + quoted(command.summary, true) + "\n";
    for (const OptionNode& option : node.options) {
      if (!option.positional.empty() && !option.choices.empty())
        text += at + " -a " + quoted(join(option.choices, " "), true) + "\n";
      if (option.names.empty()) continue;
      text += at;
      for (const std::string& name : option.names)
        text += name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (!option.value.empty()) text += " -r";
      if (!option.choices.empty()) text += " -xa " + quoted(join(option.choices, " "), true);
      text += " -d " + quoted(option.description, true) + "\n";
    }
    if (takes_runs(node)) text += at + " -F -a '(assay completions words 2>/dev/null)'\n";
  });
  return text;
}

// Series, run ids and numbers, one a line: the last 200 runs'. Nothing where there is no registry.
int print_words() {
  const Paths paths = user_paths();
  if (!std::filesystem::exists(paths.registry())) return kOk;
  const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
  registry::Registry::RunFilter filter;
  filter.texts = false;
  filter.limit = 200;
  std::set<std::string> words;
  for (const registry::RunRow& row : registry.runs(filter)) {
    words.insert(row.series);
    words.insert(row.run);
    words.insert(std::to_string(row.number));
  }
  for (const std::string& word : words) std::printf("%s\n", word.c_str());
  return kOk;
}

}  // namespace

std::function<int()> setup_completions(CLI::App& app) {
  const auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "words"}))
      ->option_text("bash|zsh|fish");
  return [shell, &app]() -> int {
    if (*shell == "words") return print_words();
    const CommandNode root = command_tree(*app.get_parent());
    const std::string text = *shell == "bash" ? bash(root) : *shell == "zsh" ? zsh(root) : fish(root);
    std::fputs(text.c_str(), stdout);
    return kOk;
  };
}

}  // namespace assay::runner

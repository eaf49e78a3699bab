// The manual page, made of the command tree.
#include <cstdio>

#include "runner/errors.h"
#include "runner/verbs/command_tree.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

// Text for roff (groff_man(7)): no line may begin with a dot or a quote, and a hyphen is not a minus.
std::string roff(const std::string& text) {
  std::string out;
  bool line_begins = true;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (const auto lead = static_cast<unsigned char>(c); lead >= 0xc0) {  // UTF-8: \\[u2026]
      const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
      unsigned code = lead & (0x3fU >> more);
      for (int k = 0; k < more && i + 1 < text.size(); ++k) code = code << 6 | (static_cast<unsigned char>(text[++i]) & 0x3fU);
      char name[16];
      std::snprintf(name, sizeof name, "\\[u%04X]", code);
      out += name;
      line_begins = false;
      continue;
    }
    if (line_begins && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') out += "\\e";
    else if (c == '-') out += "\\-";
    else out += c;
    line_begins = c == '\n';
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

std::string synopsis(const CommandNode& node) {
  std::string line = bold("assay");
  for (const std::string& word : node.path) line += " " + bold(word);
  for (const OptionNode& option : node.options)
    if (!option.names.empty()) {
      line += " [\\fIOPTION\\fR]...";
      break;
    }
  for (const OptionNode& option : node.options) {
    if (option.positional.empty()) continue;
    const std::string word = italic(option.positional) + (option.repeated ? "..." : "");
    line += option.required ? " " + word : " [" + word + "]";
  }
  return line;
}

void describe(const CommandNode& node, std::string& text) {
  text += ".SS " + synopsis(node) + "\n" + roff(node.summary) + ".\n";
  for (const OptionNode& option : node.options) {
    std::string name = option.positional.empty() ? "" : italic(option.positional);
    for (const std::string& word : option.names) name += (name.empty() ? "" : ", ") + bold(word);
    if (!option.names.empty() && !option.value.empty()) name += " " + italic(option.value);
    text += ".TP\n" + name + "\n" + roff(option.description) + "\n";
  }
  for (const CommandNode& command : node.commands) describe(command, text);
}

}  // namespace

std::function<int()> setup_man(CLI::App& app) {
  return [&app]() -> int {
    const CommandNode root = command_tree(*app.get_parent());
    std::string text = ".TH ASSAY 1 \"\" \"assay " + std::string(ASSAY_VERSION) + "\" \"User Commands\"\n"
                       ".SH NAME\nassay \\- queue, run, record and compare training runs\n.SH SYNOPSIS\n" +
                       bold("assay") + " \\fIVERB\\fR [\\fIOPTION\\fR]... [\\fIWHAT\\fR]...\n.SH DESCRIPTION\n" +
                       roff(root.summary) + "\n.SH VERBS\n";
    for (const CommandNode& command : root.commands) describe(command, text);
    text += ".SH EXIT STATUS\n" + roff(root.footer) + "\n.SH SEE ALSO\n" +
            roff("docs/manual.md, docs/series.md and docs/run-folder.md of the source tree.") + "\n";
    std::fputs(text.c_str(), stdout);
    return kOk;
  };
}

}  // namespace assay::runner

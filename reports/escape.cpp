// One function a form. Control characters become spaces: none of the forms has a use for them.
#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <utility>

#include "reports/document.h"

namespace assay::report {
namespace {

bool control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

}  // namespace

std::string html_escape(const std::string& plain) {
  std::string text;
  for (const char c : plain) {
    if (c == '&') text += "&amp;";
    else if (c == '<') text += "&lt;";
    else if (c == '>') text += "&gt;";
    else if (c == '"') text += "&quot;";
    else if (c == '\'') text += "&#39;";
    else text += control(c) ? ' ' : c;
  }
  return text;
}

std::string markdown_escape(const std::string& plain) {
  // Only what would mean something is escaped, so that it reads as plain text too.
  std::string text;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const char c = plain[i];
    if (control(c)) {
      text += ' ';
      continue;
    }
    const auto is = [&](std::size_t at, const char* others) {
      return at < plain.size() && (std::isalnum(static_cast<unsigned char>(plain[at])) != 0 || std::string_view(others).find(plain[at]) != std::string_view::npos);
    };
    bool special = std::string_view("\\`*[]|~").find(c) != std::string_view::npos;
    if (c == '_') special = !(i > 0 && is(i - 1, "") && is(i + 1, ""));   // inside a word it opens no emphasis
    if (c == '<') special = is(i + 1, "/!?");                             // a tag or an address
    if (c == '&') special = is(i + 1, "#");                               // an entity
    // What would make a heading, a rule, a quote or a list of a line's beginning.
    if (i == 0 && (c == '#' || c == '=' || c == '>')) special = true;
    if (i == 0 && (c == '-' || c == '+')) special = plain.size() == 1 ? false : plain[1] == ' ' || plain[1] == c;
    if ((c == '.' || c == ')') && i > 0 && plain.find_first_not_of("0123456789") == i) special = i + 1 == plain.size() || plain[i + 1] == ' ';
    if (special) text += '\\';
    text += c;
  }
  return text;
}

std::string markdown_code(const std::string& plain) {
  std::string inside;
  std::size_t longest = 0, run = 0;
  for (const char c : plain) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
    inside += control(c) ? ' ' : c;
  }
  if (inside.empty()) return "";
  const std::string fence(longest + 1, '`');
  const bool pad = inside.front() == '`' || inside.back() == '`' || inside.front() == ' ';
  return fence + (pad ? " " : "") + inside + (pad ? " " : "") + fence;
}

std::string tex_escape(const std::string& plain) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 24> kWords = {{
      {"\\", "\\textbackslash{}"}, {"{", "\\{"}, {"}", "\\}"}, {"$", "\\$"}, {"&", "\\&"}, {"#", "\\#"}, {"_", "\\_"},
      {"%", "\\%"}, {"~", "\\textasciitilde{}"}, {"^", "\\textasciicircum{}"}, {"<", "\\textless{}"},
      {">", "\\textgreater{}"}, {"|", "\\textbar{}"}, {"\"", "\\textquotedbl{}"}, {"→", "\\(\\to\\)"}, {"−", "\\(-\\)"}, {"–", "--"},
      {"‡", "\\textdaggerdbl{}"}, {"†", "\\textdagger{}"}, {"±", "\\(\\pm\\)"}, {"×", "\\(\\times\\)"},
      {"≥", "\\(\\ge\\)"}, {"≤", "\\(\\le\\)"}, {"…", "\\dots{}"}}};
  std::string text;
  for (std::size_t i = 0; i < plain.size();) {
    const std::string_view rest = std::string_view(plain).substr(i);
    const auto found = std::find_if(kWords.begin(), kWords.end(), [&](const auto& word) { return rest.starts_with(word.first); });
    if (found != kWords.end()) {
      text += found->second;
      i += found->first.size();
    } else {
      text += control(plain[i]) ? ' ' : plain[i];
      ++i;
    }
  }
  return text;
}

}  // namespace assay::report

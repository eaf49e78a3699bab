#include "experiments/spec/toml_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "support/files.h"
#include "support/looks.h"

namespace assay::spec {

namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t largest_file = 4u << 20;
// A dotted key nests a table a dot, and tables are freed by recursion: no line may hold more dots than a stack bears.
constexpr std::size_t longest_line = 10000;

std::string without_carriage_returns(const std::string& text) {
  std::string plain;
  plain.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r' || i + 1 == text.size() || text[i + 1] != '\n') plain += text[i];
  return plain;
}

Diagnostic whole_file(const fs::path& path, std::string message) { return {path.string(), 0, 0, std::move(message)}; }

// Empty: it is text.
std::optional<Diagnostic> not_text(const fs::path& path, const std::string& text) {
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    return whole_file(path, "the file is UTF-16; TOML is UTF-8: save it as UTF-8");
  if (const std::size_t nul = text.find('\0'); nul != std::string::npos) {
    const auto line = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(nul), '\n');
    return whole_file(path, "this is no text file: line " + std::to_string(line + 1) + " holds a NUL byte");
  }
  for (std::size_t start = 0, line = 1; start < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    if (end - start > longest_line)
      return whole_file(path, "line " + std::to_string(line) + " is longer than " + std::to_string(longest_line) +
                                  " bytes: this is no series file");
    start = end + 1;
  }
  const bool blank = std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c); });
  if (blank || text == "\xef\xbb\xbf")
    return whole_file(path, "the file is empty; a series has [series], [base] and [[run]] (docs/series.md)");
  return std::nullopt;
}

}  // namespace

Diagnostic at(const Mark& mark, std::string message) { return {mark.file, mark.line, mark.column, std::move(message)}; }

Mark TomlFile::mark(const toml::source_region& source) const {
  return {path.string(), static_cast<int>(source.begin.line), static_cast<int>(source.begin.column), folder, 0};
}

std::variant<TomlFile, Diagnostic> load_toml(const fs::path& path) {
  const fs::file_type type = support::type_at(path);
  std::error_code error;
  if (type == fs::file_type::not_found) return whole_file(path, "no such file");
  if (type == fs::file_type::none && !fs::exists(path, error) && error) return whole_file(path, error.message());
  if (type == fs::file_type::directory) return whole_file(path, "this is a folder; name the .toml file in it");
  if (type != fs::file_type::regular) return whole_file(path, "this is no regular file");
  if (fs::file_size(path, error) > largest_file && !error)
    return whole_file(path, "larger than 4 MiB: this is no series file");

  TomlFile file{path, fs::absolute(path).lexically_normal().parent_path(), {}, {}};
  try {
    file.text = support::read_file(path);
  } catch (const std::runtime_error& failure) {
    std::string reason = failure.what();
    const std::string prefix = path.string() + ": ";
    if (reason.starts_with(prefix)) reason.erase(0, prefix.size());
    return whole_file(path, "cannot be read: " + reason);
  }
  if (auto wrong = not_text(path, file.text)) return *wrong;
  toml::parse_result parsed = toml::parse(without_carriage_returns(file.text), path.string());
  if (!parsed) {
    const toml::parse_error& failure = parsed.error();
    return at(file.mark(failure.source()), "TOML syntax: " + std::string(failure.description()));
  }
  file.root = std::move(parsed).table();
  return file;
}

std::optional<Value> to_value(const toml::node& node) {
  if (const auto* x = node.as_boolean()) return x->get();
  if (const auto* x = node.as_integer()) return x->get();
  if (const auto* x = node.as_floating_point()) return x->get();
  if (const auto* x = node.as_string()) return x->get();
  const auto* list = node.as_array();
  if (!list) return std::nullopt;
  Strings strings;
  for (const toml::node& element : *list) {
    const auto* text = element.as_string();
    if (!text) return std::nullopt;
    strings.push_back(text->get());
  }
  return strings;
}

std::string describe(const toml::node& node) {
  if (const auto value = to_value(node)) return describe(*value);
  if (node.is_table()) return "a table";
  if (node.is_array()) return "a list that holds other things than strings";
  return node.is_time() ? "a time of day" : "a date";
}

Value parse_bare_value(std::string_view text) {
  // A line end would let the text hold further keys.
  if (text.find_first_of("\r\n") == std::string_view::npos) {
    const toml::parse_result parsed = toml::parse("value = " + std::string(text));
    if (parsed && parsed.table().size() == 1)
      if (const toml::node* node = parsed.table().get("value"))
        if (auto value = to_value(*node)) return *value;
  }
  return std::string(text);
}

}  // namespace assay::spec

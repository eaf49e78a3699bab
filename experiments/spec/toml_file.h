// A TOML file on its way in: read, checked for being text, parsed; and positions to point at.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#define TOML_EXCEPTIONS 0
#include "support/toml.h"

#include "experiments/spec/fields.h"
#include "experiments/spec/series.h"

namespace assay::spec {

// Where something was written.
struct Mark {
  std::string file;              // as the user named it; for an override the option
  int line = 0, column = 0;
  std::filesystem::path folder;  // absolute: relative paths written here start there
  int layer = 0;                 // how late it is applied: 0 the first base, then each level that builds on it
};

Diagnostic at(const Mark& mark, std::string message);

struct TomlFile {
  std::filesystem::path path, folder;
  std::string text;    // bytes of the file
  toml::table root;

  Mark mark(const toml::source_region& source) const;
};

// Line ends of Windows and a UTF-8 byte order mark are taken for what they are; UTF-16, binary, empty, folder, and so
// on are one diagnostic each, a syntax error is the one at which TOML stops.
std::variant<TomlFile, Diagnostic> load_toml(const std::filesystem::path& path);

// A TOML value as a field takes it; nullopt for tables, dates, and lists that hold anything but strings.
std::optional<Value> to_value(const toml::node& node);
// What a node is, for messages: "the integer 3", "a table", "a date".
std::string describe(const toml::node& node);

// VALUE of --set KEY=VALUE: a TOML value, or a bare string.
Value parse_bare_value(std::string_view text);

}  // namespace assay::spec

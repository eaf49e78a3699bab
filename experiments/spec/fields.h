// Every field of Config described once: its key, where it lives, what it may hold, what it is for.
//
// Reading TOML and JSON, writing JSON, --set, "did you mean" and the key table of docs/series.md all come from this
// table, so a new key is one member in config.h and one line in fields.cpp.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "experiments/spec/config.h"

namespace assay::spec {

// A value as a file may hold it, whatever it was written in.
using Strings = std::vector<std::string>;
using Value = std::variant<bool, std::int64_t, double, std::string, Strings>;
// Where a field lives in a Config; the alternative is the field's type.
using Slot = std::variant<bool*, std::int64_t*, double*, std::string*, Strings*>;

struct Rule {
  enum class Kind : std::uint8_t {
    any,       // whatever the type holds
    choice,    // one of `choices`; for a list: each of them, none twice, at least one
    range,     // low..high, each end open or not; never NaN or infinite
    path,      // a file or folder, relative to the file that says so
    modules,   // exact module names, or anchored patterns ^…$ that compile
  };
  Kind kind = Kind::any;
  Strings choices = {};
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;
};

struct Field {
  std::string_view key;    // "quant.ste"
  Slot (*slot)(Config&);
  Rule rule;
  std::string_view help;   // one line, as the manual prints it

  Value get(const Config& config) const;
  void set(Config& config, const Value& value) const;  // a value that accept() returned
  std::string expected() const;                        // "an integer from 1 to 1024"
};

// In the order of config.h.
const std::vector<Field>& fields();
const Field* find_field(std::string_view key);
Strings field_keys();
Strings section_names();   // "model", "prompt", …

// The value as the field stores it (an integer becomes a number where a number is asked for), or what is wrong with it:
// "wanted …, got …".
struct Refusal {
  std::string message;
};
std::variant<Value, Refusal> accept(const Field& field, const Value& value);

std::string describe(const Value& value);   // "the string \"x\"", "the number 0.5", … for messages
std::string as_json(const Value& value);    // "true", "0.5", "\"x\"", "[\"a\"]"

// Keys, and values of known keys, that the published work or its peers have and this version does not: refused by name.
// nullopt: not one of them. `value` is compared as JSON text.
std::optional<std::string> not_implemented_key(std::string_view key);
std::optional<std::string> not_implemented_value(std::string_view key, const Value& value);

}  // namespace assay::spec

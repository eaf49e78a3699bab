// A series file as it stands, before anything is inherited: every key read, typed and marked with its place.
#pragma once

#include <string>
#include <vector>

#include "experiments/spec/toml_file.h"

namespace assay::spec {

struct Setting {          // one config key that a file or an option sets
  const Field* field = nullptr;
  std::optional<Value> value;  // nullopt: it was refused, so what depends on it cannot be judged
  Mark mark;
};

struct Text {             // a string that may point somewhere, with its place
  std::string value;
  Mark mark;
  bool given = false;     // the key stands there
  bool is_text = false;   // and holds a string
};

struct RunEntry {
  Mark mark;              // of [[run]]
  Text id, base, baseline;
  std::string title, hypothesis, change_in_words, verdict, conclusion;
  Published published;
  std::vector<Setting> change;
};

struct CauseEntry {
  Text name, run, against;
  std::string note;
};

struct SeriesFile {
  TomlFile toml;
  bool single = false;    // a file of one run
  Text id, base;          // base: what [base] builds on
  std::string title, goal, notes;
  std::vector<std::string> dates, next_steps;
  std::optional<double> success_accuracy, cause_margin;
  std::vector<Setting> settings;  // [base]
  std::vector<RunEntry> runs;
  std::vector<CauseEntry> causes;
};

// Reads what the file says and reports all that is wrong with it by itself: keys, types, ranges, ids.
SeriesFile read_series_file(TomlFile toml, Diagnostics& wrong);

// Checks an option as if a file had set its key. nullopt: refused.
std::optional<Setting> read_override(const Override& option, Diagnostics& wrong);

}  // namespace assay::spec

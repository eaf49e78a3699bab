// From files to whole configs: which run builds on which, and what each key's value and place then are.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "experiments/spec/series_file.h"

namespace assay::spec {

// A config with the place each key was last set at. Keys that nobody set have their default and no mark.
struct Settled {
  Config config;
  std::map<std::string_view, Mark> marks;
  std::set<std::string_view> unknown;  // keys whose last setting was refused
  int layer = 0;                       // of the marks that come next

  void apply(const std::vector<Setting>& settings);
  // A path of the config, made absolute from the folder of the file that wrote it; empty stays empty.
  std::string absolute(std::string_view key) const;
};

// Keys whose values differ, as "old -> new" in JSON. Paths differ when they lead to different places. A mode that is the
// default of its format is no difference of its own when the format differs.
std::map<std::string, std::string> differences(const Settled& before, const Settled& after);

struct Book {                           // a series file with everything inherited
  SeriesFile file;
  std::optional<Settled> base;          // nullopt: what it builds on cannot be used
  std::vector<std::optional<Settled>> runs;
  std::map<std::string, std::size_t> index;   // run id -> place in runs
  std::vector<Book*> bases;             // series that this one names, each once
  std::map<std::string, Book*> named;   // the same by the words that name them; nullptr: cannot be used
};

// The files read for one series. All diagnostics go to `wrong`.
class Library {
 public:
  explicit Library(Diagnostics& wrong) : wrong_(wrong) {}
  // nullptr: it cannot be read, and that was reported; `from` is the place that names it, for circles.
  Book* open(const std::filesystem::path& path, const Mark* from = nullptr);
  // In the order they were read; the first is the file asked for.
  const std::vector<std::unique_ptr<Book>>& books() const { return books_; }

 private:
  friend class Inheritance;
  Diagnostics& wrong_;
  std::vector<std::unique_ptr<Book>> books_;
  std::map<std::filesystem::path, Book*> by_path_;
  std::vector<std::filesystem::path> reading_;
};

// "e13/e13g" -> {"e13", "e13g"}; "e13" and "dir/x.toml" -> {.., ""}.
struct Reference {
  std::string series, run;
};
Reference split_reference(const std::string& text);

}  // namespace assay::spec

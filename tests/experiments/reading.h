// What the tests of the series reader share.
#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "catch.h"
#include "experiments/spec/series.h"

namespace assay::test {

// A matcher: the text holds this.
inline auto has(const std::string& part) {
#if __has_include(<catch2/catch_all.hpp>)
  return Catch::Matchers::ContainsSubstring(part);
#else
  return Catch::Matchers::Contains(part);
#endif
}

class InFolder {  // the current folder, for one scope
 public:
  explicit InFolder(const std::filesystem::path& folder) : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(folder);
  }
  ~InFolder() { std::filesystem::current_path(before_); }
  InFolder(const InFolder&) = delete;
  InFolder& operator=(const InFolder&) = delete;

 private:
  std::filesystem::path before_;
};

inline std::filesystem::path write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

inline std::string lines(const spec::Diagnostics& diagnostics) {
  std::string text;
  for (const spec::Diagnostic& d : diagnostics) text += d.text() + "\n";
  return text;
}

// The series, or the test ends with what is wrong with it.
inline spec::Series good(const std::filesystem::path& file, const std::vector<spec::Override>& overrides = {}) {
  auto result = spec::read_series(file, overrides);
  if (const auto* wrong = std::get_if<spec::Diagnostics>(&result)) FAIL(lines(*wrong));
  return std::get<spec::Series>(std::move(result));
}

inline std::string bad(const std::filesystem::path& file, const std::vector<spec::Override>& overrides = {}) {
  const auto result = spec::read_series(file, overrides);
  const auto* wrong = std::get_if<spec::Diagnostics>(&result);
  return wrong ? lines(*wrong) : "";
}

inline const spec::RunSpec& run_of(const spec::Series& series, const std::string& id) {
  for (const spec::RunSpec& run : series.runs)
    if (run.id == id) return run;
  FAIL("no run " << id);
  throw std::logic_error("unreachable");
}

// A series with everything required; what a test is about comes after it.
inline const std::string minimal =
    "[series]\nid = \"mini\"\n[base]\nmodel.path = \"model\"\ndata = { train = \"train.jsonl\", test = \"test.jsonl\" }\n";

}  // namespace assay::test

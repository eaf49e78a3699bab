// Records of runs that were made elsewhere, as run folders and registry rows.
#include <nlohmann/json.hpp>

#include "catch.h"
#include "experiments/spec/records_file.h"
#include "registry/registry.h"
#include "runner/errors.h"
#include "runner/importing.h"
#include "support/files.h"

using namespace assay;
using namespace assay::runner;
using namespace assay::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

Paths paths_in(const fs::path& folder) { return {folder / "home", folder / "home/state", folder / "home/state/socket"}; }

registry::Registry reading(const Paths& paths) {
  return registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
}

std::string wrong_with(const std::string& text) {
  const fs::path file = fresh_folder("records-bad") / "records.toml";
  support::write_file_atomically(file, text);
  const auto read = spec::read_records(file);
  std::string lines;
  if (const auto* diagnostics = std::get_if<spec::Diagnostics>(&read))
    for (const spec::Diagnostic& diagnostic : *diagnostics)
      lines += diagnostic.text().substr(diagnostic.text().find("records.toml")) + "\n";
  return lines;
}

}  // namespace

TEST_CASE("the published records become runs, once") {
  const Paths paths = paths_in(fresh_folder("import-published"));
  const std::string file = source("experiments/e13-published/records.toml").string();
  const ImportResult first = import_records(paths, file);
  REQUIRE(first.added.size() == 9);
  CHECK(first.present.empty());

  const auto registry = reading(paths);
  CHECK(registry.problems().empty());
  std::map<std::string, registry::RunRow> runs;
  for (const registry::RunRow& row : registry.runs({})) runs[row.run] = row;
  REQUIRE(runs.size() == 9);
  const std::map<std::string, std::pair<std::int64_t, std::int64_t>> counts = {
      {"e13a-mxfp4", {107, 98}}, {"e13a-nvfp4", {100, 119}}, {"e13b-nvfp4", {103, 110}}, {"e13c-nvfp4", {100, 119}},
      {"e13d-nvfp4", {112, -1}}, {"e13e-nvfp4", {101, -1}},  {"e13f-nvfp4", {108, 137}}, {"e13g-nvfp4", {107, 803}},
      {"e13h-mxfp4", {101, 744}}};
  for (const auto& [id, row] : runs) {
    INFO(id);
    const auto [at_0, at_20] = counts.at(id);
    const auto evaluations = registry.evaluations(row.number, true);
    REQUIRE(evaluations.size() == (at_20 < 0 ? 1 : 2));
    CHECK(evaluations[0].step == 0);
    CHECK(evaluations[0].correct == at_0);
    CHECK(evaluations[0].problems == 1319);
    CHECK(evaluations[0].quant == "unknown");
    CHECK(evaluations[0].trained_quant.find("W4A4") != std::string::npos);
    CHECK(evaluations[0].outcomes.empty());
    if (at_20 >= 0) CHECK(evaluations[1].correct == at_20);
    CHECK(row.state.kind == (at_20 < 0 ? registry::StateKind::lost : registry::StateKind::succeeded));
    const json document = json::parse(row.run_json), frozen = json::parse(support::read_file(fs::path(row.folder) / "run.json"));
    CHECK(document.at("origin").at("kind") == "records");
    CHECK(document.at("origin").at("source") == "records.toml");
    CHECK(document.at("origin").at("sha256") == support::sha256_file(file));
    CHECK(frozen.at("origin") == document.at("origin"));
    CHECK(support::read_file(fs::path(row.folder) / "records.toml") == support::read_file(file));
    CHECK(json::parse(row.config_json).at("grpo").at("train_batch_size") == (id == "e13b-nvfp4" ? 16 : 128));
  }
  const auto scores = registry.metrics(runs.at("e13h-mxfp4").number, "critic/score/mean");
  REQUIRE(scores.size() == 2);
  CHECK(scores[0].step == 1);
  CHECK(scores[0].value == Approx(0.1992));
  CHECK(scores[1].value == Approx(0.4189));
  const json series = json::parse(registry.series("e13-published")->json);
  CHECK(series.at("records").at("commits").size() == 6);
  CHECK(series.at("records").at("open_questions").size() == 6);
  CHECK(series.at("causes").size() == 7);

  const ImportResult again = import_records(paths, file);
  CHECK(again.added.empty());
  CHECK(again.present == first.added);
  CHECK(reading(paths).runs({}).size() == 9);
}

TEST_CASE("a record that changed becomes a new run; the others stay") {
  const fs::path folder = fresh_folder("import-changed");
  const Paths paths = paths_in(folder);
  std::string text = support::read_file(source("experiments/e13-published/records.toml"));
  text.replace(text.find("e13-published.toml\""), 18, source("experiments/e13-published/e13-published.toml").string());
  support::write_file_atomically(folder / "r.toml", text);
  REQUIRE(import_records(paths, (folder / "r.toml").string()).added.size() == 9);
  text.replace(text.find("20 = 7.43"), 9, "20 = 7.51");
  support::write_file_atomically(folder / "r.toml", text);
  const ImportResult result = import_records(paths, (folder / "r.toml").string());
  CHECK(result.added == std::vector<std::int64_t>{10});
  CHECK(result.present.size() == 8);
  CHECK(reading(paths).evaluations(10, false).back().correct == 99);
}

TEST_CASE("a file of records says all that is wrong with it") {
  const std::string lines = wrong_with(
      "series = 3\nsorce = \"x\"\n[test]\nproblems = 0\n[[record]]\naccuracy = { first = 8 }\nstate = \"running\"\n"
      "[[claim]]\nwhat = \"x\"\nsaid = 2\nof = 1\n");
  using Catch::Contains;
  CHECK_THAT(lines, Contains("records.toml:1:10: wanted a string in quotes, got the integer 3"));
  CHECK_THAT(lines, Contains("unknown key 'sorce' in the file; did you mean 'source'?"));
  CHECK_THAT(lines, Contains("wanted an integer of at least 1, got the integer 0"));
  CHECK_THAT(lines, Contains("'first' is no step"));
  CHECK_THAT(lines, Contains("wanted one of \"succeeded\", \"failed\", \"killed\", \"lost\""));
  CHECK_THAT(lines, Contains("[[record]] has no run"));
  CHECK_THAT(lines, Contains("[[claim]] needs what, said"));
  CHECK_THAT(wrong_with("series = \"x\"\n[test]\nproblems = 10\nmetric = \"m\"\n[[record]]\nrun = \"a\"\naccuracy = { 0 = 8.11 }\n"),
             Contains("no count of 10 problems makes the accuracy at step 0"));
  CHECK(spec::count_of(8.11, 1319) == 107);
  CHECK(spec::count_of(8.1, 1319) == 107);
  CHECK(spec::count_of(60.88, 1319) == 803);
  CHECK_FALSE(spec::count_of(8.11, 100));
}

TEST_CASE("what a claim or a record names must be there; nothing is left behind otherwise") {
  const fs::path folder = fresh_folder("import-names");
  const Paths paths = paths_in(folder);
  support::write_file_atomically(folder / "r.toml",
                                 "series = \"e13\"\n[test]\nproblems = 1319\nmetric = \"m\"\n[[record]]\nrun = \"nobody\"\n"
                                 "accuracy = { 0 = 8.11 }\n[[claim]]\nwhat = \"x\"\nsaid = 2\nof_run = \"a\"\nto_run = \"b\"\nstep = 0\n");
  try {
    import_records(paths, (folder / "r.toml").string());
    FAIL("taken");
  } catch (const UserError& error) {
    CHECK(error.code() == kRefused);
    CHECK_THAT(error.what(), Catch::Contains("series e13 has no run 'nobody'") && Catch::Contains("of run 'b'"));
  }
  CHECK_FALSE(fs::exists(paths.registry()));
}

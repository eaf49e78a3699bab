// Golden tables: tests/golden/reports. ASSAY_WRITE_GOLDEN=1 rewrites them; then read the difference.
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "catch.h"
#include "reports/comparison.h"
#include "support/files.h"

using namespace assay::report;

namespace {

// An accuracy on `problems` problems of which the first `correct` are right, shifted by `shift`.
EvalPoint point(std::int64_t step, std::int64_t correct, std::int64_t problems = 1024, std::int64_t shift = 0,
                const std::string& quant = "nvfp4/te W4A4") {
  EvalPoint made{step, problems, correct, quant, quant, "0123456789abcdef", std::vector<bool>(static_cast<std::size_t>(problems))};
  for (std::int64_t i = 0; i < correct; ++i) made.outcomes[static_cast<std::size_t>((i + shift) % problems)] = true;
  return made;
}

RunResult run(const std::string& id, std::int64_t first, std::int64_t last) {
  RunResult made;
  made.id = id;
  made.title = "what " + id + " is";
  made.format = "nvfp4";
  made.hook = "pre";
  made.blocking = "row";
  made.ste = "no";
  made.seed = 1;
  made.state = "succeeded";
  made.steps = 20;
  made.first = point(0, first);
  made.last = point(20, last);
  return made;
}

// The published shape of the series, on made-up outcomes, with everything a table can hold.
std::vector<RunResult> series() {
  std::vector<RunResult> runs;
  auto bf16 = run("bf16", 83, 640);
  bf16.title = "no quantization";
  bf16.format = "none";
  bf16.hook = bf16.blocking = bf16.ste = "-";
  for (auto* at : {&*bf16.first, &*bf16.last}) at->quant = at->trained_quant = "none";
  runs.push_back(bf16);

  auto post = run("e13a-nvfp4", 78, 80);
  post.title = "post-hook | outputs";
  post.hook = "post";
  post.baseline = "bf16";
  post.published_first = 7.58;
  post.published_last = 9.02;
  post.adapters_with_gradient = 0;
  post.adapter_tensors = 84;
  post.training_score = 0.0801;
  runs.push_back(post);

  auto training = run("e13c-nvfp4", 78, 60);
  training.baseline = "e13a-nvfp4";
  training.hook = "post";
  for (auto* at : {&*training.first, &*training.last}) at->quant = "none";
  runs.push_back(training);

  auto failed = run("e13d-nvfp4", 87, 0);
  failed.baseline = "e13a-nvfp4";
  failed.state = "failed";
  failed.state_detail = "exit code 4: loss is not finite in step 7";
  failed.last.reset();
  failed.published_first = 8.49;
  runs.push_back(failed);

  auto columns = run("e13f-nvfp4", 84, 106);
  columns.blocking = "column";
  columns.baseline = "e13d-nvfp4";
  columns.published_first = 8.19;
  columns.published_last = 10.39;
  runs.push_back(columns);

  auto fix = run("e13g-nvfp4", 83, 623);
  fix.title = "straight-through estimator";
  fix.blocking = "column";
  fix.ste = "yes";
  fix.baseline = "e13f-nvfp4";
  fix.published_first = 8.11;
  fix.published_last = 60.88;
  fix.adapters_with_gradient = fix.adapter_tensors = 84;
  fix.training_score = 0.5176;
  runs.push_back(fix);

  auto running = run("e13h-mxfp4", 78, 0);
  running.format = "mxfp4";
  running.ste = "yes";
  running.baseline = "e13g-nvfp4";
  running.state = "running";
  running.last.reset();
  runs.push_back(running);
  for (std::size_t i = 0; i < runs.size(); ++i) runs[i].number = static_cast<std::int64_t>(i) + 1;
  return runs;
}

std::vector<RunResult> three_seeds() {
  std::vector<RunResult> runs;
  std::int64_t number = 0;
  for (const std::int64_t seed : {3, 1, 2})
    for (const RunResult& one : series()) {
      if (one.id != "e13f-nvfp4" && one.id != "e13g-nvfp4") continue;
      auto made = one;
      made.seed = seed;
      made.number = ++number;
      made.last = point(20, one.last->correct + 10 * seed, 1024, seed);
      made.last->quant = made.last->trained_quant = "nvfp4/te W4A4";
      runs.push_back(made);
    }
  return runs;
}

void check_golden(const std::string& name, const std::string& text) {
  const auto file = assay::test::source("tests/golden/reports/" + name);
  if (std::getenv("ASSAY_WRITE_GOLDEN")) assay::support::write_file_atomically(file, text);
  CHECK(text == assay::support::read_file(file));
}

std::string word(const RunResult& result) { return verdict(result, {}).word; }

const ComparisonRow& row_of(const Comparison& table, const std::string& id) {
  return *std::find_if(table.rows.begin(), table.rows.end(), [&](const auto& row) { return row.run.id == id; });
}

}  // namespace

TEST_CASE("golden tables") {
  check_golden("series.md", to_markdown(series(), {}));
  check_golden("series.csv", to_csv(series(), {}));
  check_golden("series.json", to_json(series(), {}));
  check_golden("three-seeds.md", to_markdown(three_seeds(), {}));
  CHECK(to_markdown({}, {}) == "No runs.\n");
  CHECK(nlohmann::json::parse(to_json({}, {})).at("rows").empty());
}

TEST_CASE("the same rows give the same bytes, in whatever order the seeds come") {
  auto runs = three_seeds();
  const std::string table = to_markdown(runs, {}), csv = to_csv(runs, {}), json = to_json(runs, {});
  CHECK(to_markdown(runs, {}) == table);
  std::stable_sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.seed < b.seed; });
  CHECK(to_markdown(runs, {}) == table);
  CHECK(to_csv(runs, {}) == csv);
  CHECK(to_json(runs, {}) == json);
}

TEST_CASE("a run that did not succeed never shows as more than its state") {
  for (const char* state : {"queued", "blocked", "starting", "running", "failed", "killed", "lost", "stalled", "skipped"}) {
    auto result = run("a", 80, 900);  // figures that would be a success
    result.state = state;
    result.state_detail = "the reason";
    CHECK(word(result) == state);
    CHECK_THAT(verdict(result, {}).sentence, Catch::EndsWith(": the reason"));
  }
}

TEST_CASE("an excluded run is compared with nothing, nor anything with it, and the reason stands below the table") {
  auto base = run("a", 80, 90), other = run("b", 80, 600), third = run("c", 80, 95);
  other.baseline = third.baseline = "a";
  base.excluded = "trained on the test file";
  for (const auto& [excluded, refused] : {std::pair(&base, std::string("the baseline a is excluded")), {&other, "it is excluded"}}) {
    base.excluded = other.excluded = "";
    excluded->excluded = "trained on the test file";
    const Comparison table = compare({base, other, third}, {});
    CHECK(table.rows.at(1).refused == refused);
    CHECK_FALSE(table.rows.at(1).difference);
    CHECK(table.rows.at(excluded == &base ? 0 : 1).verdict.word == "excluded");
    const std::string text = to_markdown({base, other, third}, {});
    CHECK(text.find("Excluded:\n\n- " + excluded->id + ": trained on the test file\n") != std::string::npos);
  }
}

TEST_CASE("the rule's cases") {
  CHECK(word(run("a", 80, 80)) == "flat");
  CHECK(word(run("a", 80, 85)) == "flat");       // 5 against 0: p = .0625
  CHECK(word(run("a", 80, 86)) == "learns");     // 6 against 0: p = .03125
  CHECK(word(run("a", 86, 80)) == "degraded");
  CHECK(word(run("a", 80, 511)) == "learns");    // 49.9 %
  CHECK(word(run("a", 80, 512)) == "success");   // 50.0 %
  CHECK(word(run("a", 1000, 1001)) == "flat");   // high, but not higher
  CHECK(word(run("a", 1000, 900)) == "degraded");
  CompareOptions options;
  options.success_accuracy = 40;
  CHECK(verdict(run("a", 80, 511), options).word == "success");
  options.alpha = 0.1;
  CHECK(verdict(run("a", 80, 85), options).word == "learns");

  auto result = run("a", 80, 600);
  result.last.reset();
  CHECK(word(result) == "unfinished");
  result = run("a", 80, 600);
  result.last->problems = 0;
  CHECK(word(result) == "unfinished");
  result = run("a", 80, 600);
  result.first.reset();
  CHECK(word(result) == "untested");
  result = run("a", 80, 600);
  result.first->outcomes.clear();
  CHECK(word(result) == "untested");
  result = run("a", 80, 600);
  result.first->data_sha256 = "another";
  CHECK(word(result) == "untested");
  CHECK_THAT(verdict(result, {}).sentence, Catch::Contains("different test files"));
}

TEST_CASE("the test is paired: the same totals can be a change or none") {
  auto result = run("a", 100, 130);
  result.last = point(20, 130, 1024, 500);  // other problems altogether: 100 lost, 130 won
  CHECK(word(result) == "flat");
  CHECK(word(run("a", 100, 130)) == "learns");
}

TEST_CASE("a difference is given on the same problems and seed only, and refused with the reason") {
  const auto refused = [](const auto& change) {
    auto base = run("base", 80, 100), other = run("x", 80, 300);
    other.baseline = "base";
    change(base, other);
    const Comparison table = compare({base, other}, {});
    const ComparisonRow row = row_of(table, "x");
    CHECK_FALSE(row.difference);
    CHECK_FALSE(row.p);
    return row.refused;
  };
  using Catch::Contains;
  CHECK_THAT(refused([](auto& base, auto&) { base.seed = 2; }), Contains("seed 1"));
  CHECK_THAT(refused([](auto& base, auto&) { base.last.reset(); }), Contains("baseline base has no accuracy"));
  CHECK_THAT(refused([](auto&, auto& other) { other.last.reset(); }), Contains("no accuracy at its last step"));
  CHECK_THAT(refused([](auto& base, auto&) { base.last->data_sha256 = "z"; }), Contains("different test files"));
  CHECK_THAT(refused([](auto& base, auto&) { base.last = point(20, 10, 32); }), Contains("1024 and 32 problems"));
  CHECK_THAT(refused([](auto& base, auto&) { base.last->step = 10; }), Contains("last step is 20"));
  CHECK_THAT(refused([](auto&, auto& other) { other.baseline = "nothing"; }), Contains("no run nothing"));

  auto base = run("base", 80, 100), other = run("x", 80, 300);
  other.baseline = "base";
  Comparison table = compare({base, other}, {});
  CHECK(*row_of(table, "x").difference == Approx(100.0 * 200 / 1024));
  CHECK(*row_of(table, "x").p == mcnemar_exact(0, 200));
  CHECK(row_of(table, "x").refused.empty());
  CHECK(row_of(table, "base").baseline.empty());
  base.last->outcomes.clear();
  table = compare({base, other}, {});
  CHECK(row_of(table, "x").difference);
  CHECK_FALSE(row_of(table, "x").p);
  CHECK_THAT(row_of(table, "x").refused, Contains("not known"));
}

TEST_CASE("one baseline for all rows, and none for itself") {
  auto a = run("a", 80, 100), b = run("b", 80, 300), c = run("c", 80, 90);
  b.baseline = "a";
  CompareOptions options;
  options.baseline = "c";
  const Comparison table = compare({a, b, c}, options);
  CHECK(row_of(table, "a").baseline == "c");
  CHECK(row_of(table, "b").baseline == "c");
  CHECK(*row_of(table, "b").difference == Approx(100.0 * 210 / 1024));
  CHECK(row_of(table, "c").baseline.empty());
}

TEST_CASE("columns are named by the steps that were measured") {
  auto a = run("a", 80, 100), b = run("b", 80, 300);
  for (auto* one : {&a, &b}) {
    one->first->step = 4;
    one->last->step = 12;  // of 20 planned: the user asked for these
  }
  CHECK_THAT(to_markdown({a, b}, {}), Catch::Contains("| step 4 | step 12 |"));
  b.last->step = 20;
  const std::string table = to_markdown({a, b}, {});
  CHECK_THAT(table, Catch::Contains("| step 4 | last step |"));
  CHECK_THAT(table, Catch::Contains("9.8 @12"));
  CHECK_THAT(table, Catch::Contains("29.3 @20"));
}

TEST_CASE("two batches in one table: the baseline is the newest, and rows carry their run's number") {
  auto old = run("base", 80, 100), young = run("base", 80, 200), other = run("x", 80, 300);
  old.number = 1;
  young.number = 7;
  other.number = 3;
  other.baseline = "base";
  CHECK(*row_of(compare({old, young, other}, {}), "x").difference == Approx(100.0 * 100 / 1024));
  CHECK(*row_of(compare({young, old, other}, {}), "x").difference == Approx(100.0 * 100 / 1024));
  CHECK_THAT(to_markdown({old, young, other}, {}), Catch::Contains("| run |"));
}

TEST_CASE("property: whatever the rows hold, the table stands and says the same in all three forms") {
  std::mt19937 random(3);
  const auto pick = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(n)); };
  const std::vector<std::string> states = {"succeeded", "succeeded", "running", "failed", "lost", "queued"};
  const std::vector<std::string> ids = {"a", "b", "c", "d|e", "f\n"};
  for (int round = 0; round < 200; ++round) {
    std::vector<RunResult> runs;
    for (std::int64_t i = 0, n = pick(8); i < n; ++i) {
      auto made = run(ids[static_cast<std::size_t>(pick(5))], pick(1025), pick(1025));
      made.number = i + 1;
      made.seed = pick(2);
      made.state = states[static_cast<std::size_t>(pick(6))];
      made.baseline = pick(2) ? "a" : "";
      if (pick(4) == 0) made.first.reset();
      if (pick(4) == 0) made.last.reset();
      if (made.last && pick(4) == 0) made.last->outcomes.clear();
      if (made.last && pick(6) == 0) made.last->quant = "none";
      if (pick(5) == 0) made.steps = 2;
      runs.push_back(made);
    }
    const auto parsed = nlohmann::json::parse(to_json(runs, {}));
    REQUIRE(parsed.at("rows").size() == runs.size());
    const std::string table = to_markdown(runs, {});
    std::size_t lines = 0, width = 0;
    for (std::size_t at = 0; at < table.size() && table[at] == '|'; ++lines) {
      const std::size_t end = table.find('\n', at);
      const std::string line = table.substr(at, end - at);
      const auto bars = static_cast<std::size_t>(std::count(line.begin(), line.end(), '|')) -
                        (line.find("\\|") != std::string::npos ? 1U : 0U);
      if (width == 0) width = bars;
      std::size_t escaped = 0;
      for (std::size_t s = line.find("\\|"); s != std::string::npos; s = line.find("\\|", s + 1)) ++escaped;
      CHECK(static_cast<std::size_t>(std::count(line.begin(), line.end(), '|')) - escaped == width);
      at = end + 1;
    }
    CHECK(lines == (runs.empty() ? 0 : runs.size() + 2));
    for (const auto& row : parsed.at("rows")) {
      const std::string status = row.at("status");
      if (row.at("state") != "succeeded") CHECK(status == row.at("state"));
      if (status == "success") CHECK(row.at("last").at("accuracy").get<double>() >= 50);
      if (!row.at("p").is_null()) {
        CHECK(row.at("p").get<double>() <= 1);
        CHECK_FALSE(row.at("difference").is_null());
      }
    }
  }
}

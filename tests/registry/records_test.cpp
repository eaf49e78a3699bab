#include <cmath>
#include <limits>

#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::folder_name;
using assay::test::fresh_folder;
using assay::test::with_runs;

namespace {
constexpr double kInf = std::numeric_limits<double>::infinity();
}

TEST_CASE("metrics come back as they went in, NaN and infinities included") {
  auto records = with_runs(fresh_folder("registry/metrics") / "r.sqlite", 2);
  const std::vector<MetricPoint> points = {{1, "a", 0.1},
                                           {1, "b", std::nan("")},
                                           {1, "c", kInf},
                                           {1, "d", -kInf},
                                           {2, "a", 5e-324},
                                           {2, "b", std::numeric_limits<double>::max()},
                                           {2, "c", 3.0},
                                           {2, "Ünïcode/ключ", -0.1 - 0.2}};
  records.put_metrics(1, points, {});
  records.put_metrics(2, {{1, "a", 7}}, {});
  const auto back = records.metrics(1);
  REQUIRE(back.size() == points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    CHECK(back[i].step == points[i].step);
    CHECK(back[i].key == points[i].key);
    if (std::isnan(points[i].value)) CHECK(std::isnan(back[i].value));
    else CHECK(back[i].value == points[i].value);
  }
  const auto only = records.metrics(1, "a");
  REQUIRE(only.size() == 2);
  CHECK(only[1].value == 5e-324);
  CHECK(records.metrics(1, "nothing").empty());
  CHECK(records.metrics(3).empty());
}

TEST_CASE("a key that comes again replaces; the same rows again change nothing") {
  auto records = with_runs(fresh_folder("registry/replay") / "r.sqlite", 1);
  const std::vector<MetricPoint> points = {{0, "val", 0.08}, {1, "loss", std::nan("")}, {1, "val", 0.5}};
  for (int i = 0; i < 3; ++i) records.put_metrics(1, points, {1, 20, 0.25, std::nullopt, 12.5});
  CHECK(records.metrics(1).size() == 3);
  records.put_metrics(1, {{1, "loss", 2.5}}, {1, 20, 0.25, 0.5, 13});
  CHECK(records.metrics(1, "loss")[0].value == 2.5);
  const auto progress = records.progress(1);
  CHECK(progress.step == 1);
  CHECK(progress.total_steps == 20);
  CHECK(progress.score == 0.25);
  CHECK(progress.accuracy == 0.5);
  CHECK(progress.last_time == 13);
}

TEST_CASE("a run of which nothing is known has no progress") {
  auto records = with_runs(fresh_folder("registry/progress") / "r.sqlite", 1);
  const auto progress = records.progress(1);
  CHECK(progress.step == -1);
  CHECK(progress.total_steps == -1);
  CHECK_FALSE(progress.score);
  CHECK_FALSE(progress.accuracy);
  CHECK(progress.last_time == 0);
}

TEST_CASE("metrics of a run that does not exist are refused, and nothing of them stays") {
  auto records = with_runs(fresh_folder("registry/orphans") / "r.sqlite", 1);
  CHECK_THROWS_WITH(records.put_metrics(9, {{1, "a", 1}}, {}), Catch::Contains("FOREIGN KEY"));
  // The key interned inside the transaction that was rolled back is made again.
  records.put_metrics(1, {{1, "a", 1}}, {});
  CHECK(records.metrics(1).size() == 1);
  CHECK(records.problems().empty());
}

TEST_CASE("an evaluation keeps each problem's outcome and is replaced as a whole") {
  auto records = with_runs(fresh_folder("registry/evaluation") / "r.sqlite", 1);
  Evaluation evaluation{20, 4, 1, 2, 2, "nvfp4/te W4A4 pre column ste", "none", "data", {}};
  evaluation.outcomes = {{0, "correct", true, true, true},
                         {1, "wrong", false, true, false},
                         {2, "unparsable", false, false, true},
                         {3, "scorer_error", false, false, false}};
  for (int i = 0; i < 2; ++i) records.put_evaluation(1, evaluation);
  auto back = records.evaluations(1, true);
  REQUIRE(back.size() == 1);
  CHECK(back[0].step == 20);
  CHECK(back[0].problems == 4);
  CHECK(back[0].correct == 1);
  CHECK(back[0].format_right == 2);
  CHECK(back[0].arithmetic_right == 2);
  CHECK(back[0].quant == evaluation.quant);
  CHECK(back[0].trained_quant == "none");
  CHECK(back[0].data_sha256 == "data");
  REQUIRE(back[0].outcomes.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(back[0].outcomes[i].index == evaluation.outcomes[i].index);
    CHECK(back[0].outcomes[i].outcome == evaluation.outcomes[i].outcome);
    CHECK(back[0].outcomes[i].correct == evaluation.outcomes[i].correct);
    CHECK(back[0].outcomes[i].format_right == evaluation.outcomes[i].format_right);
    CHECK(back[0].outcomes[i].arithmetic_right == evaluation.outcomes[i].arithmetic_right);
  }
  CHECK(records.evaluations(1, false)[0].outcomes.empty());

  evaluation.outcomes.resize(1);
  records.put_evaluation(1, evaluation);
  CHECK(records.evaluations(1, true)[0].outcomes.size() == 1);
  evaluation.quant = "none";
  records.put_evaluation(1, evaluation);
  evaluation.step = 0;
  records.put_evaluation(1, evaluation);
  back = records.evaluations(1, false);
  REQUIRE(back.size() == 3);
  CHECK(back[0].step == 0);
}

TEST_CASE("an outcome nobody knows is refused, and the evaluation before it stays") {
  auto records = with_runs(fresh_folder("registry/outcome") / "r.sqlite", 1);
  Evaluation evaluation{0, 1, 1, 1, 1, "none", "none", "data", {{0, "correct", true, true, true}}};
  records.put_evaluation(1, evaluation);
  evaluation.correct = 0;
  evaluation.outcomes[0].outcome = "maybe";
  CHECK_THROWS_WITH(records.put_evaluation(1, evaluation), Catch::Contains("maybe"));
  CHECK(records.evaluations(1, true)[0].correct == 1);
  CHECK(records.evaluations(1, true)[0].outcomes.size() == 1);
}

TEST_CASE("an event once is once, however often it is replayed") {
  auto records = with_runs(fresh_folder("registry/events") / "r.sqlite", 2);
  const Event first{1, 2.5, 3, "no_gradient", "grad_norm is 0", R"({"x":1})"};
  for (int i = 0; i < 2; ++i) {
    records.put_event({1, 9, 4, "finished", "", "{}"});
    records.put_event(first);
    records.put_event({0, 1, -1, "daemon", "started", "{}"});
  }
  const auto events = records.events(1);
  REQUIRE(events.size() == 2);
  CHECK(events[0].kind == "no_gradient");
  CHECK(events[0].time == 2.5);
  CHECK(events[0].step == 3);
  CHECK(events[0].message == first.message);
  CHECK(events[0].data_json == first.data_json);
  CHECK(events[0].run == 1);
  CHECK(records.events(0).size() == 1);
  CHECK(records.events(0)[0].run == 0);
  CHECK(records.events(2).empty());
}

TEST_CASE("documents and offsets") {
  auto records = with_runs(fresh_folder("registry/documents") / "r.sqlite", 2);
  CHECK_FALSE(records.document(1, "doctor"));
  records.put_document(1, "doctor", "{}");
  records.put_document(1, "doctor", R"({"findings":[]})");
  CHECK(records.document(1, "doctor") == std::optional<std::string>(R"({"findings":[]})"));
  CHECK_FALSE(records.document(2, "doctor"));
  CHECK(records.ingested_bytes(1, "metrics.jsonl") == 0);
  records.set_ingested_bytes(1, "metrics.jsonl", std::int64_t{5} << 32);
  CHECK(records.ingested_bytes(1, "metrics.jsonl") == std::int64_t{5} << 32);
  CHECK(records.ingested_bytes(1, "events.jsonl") == 0);
}

TEST_CASE("a batch is one transaction, and what fails inside it fails alone") {
  auto records = with_runs(fresh_folder("registry/batch") / "r.sqlite", 1);
  CHECK_THROWS_WITH(records.batch([&] {
    records.put_metrics(1, {{1, "a", 1}}, {});
    records.set_ingested_bytes(1, "metrics.jsonl", 10);
    throw std::runtime_error("stop");
  }),
                    "stop");
  CHECK(records.metrics(1).empty());
  CHECK(records.ingested_bytes(1, "metrics.jsonl") == 0);
  records.batch([&] {
    records.put_metrics(1, {{1, "a", 1}}, {});
    CHECK_THROWS(records.put_metrics(77, {{1, "b", 1}}, {}));
    records.put_metrics(1, {{1, "b", 2}}, {});
    CHECK(records.metrics(1).size() == 2);  // a reader on the same connection sees its own writes
  });
  CHECK(records.metrics(1).size() == 2);
  CHECK(records.problems().empty());
}

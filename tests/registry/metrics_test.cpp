// Metrics: packed a step a row, read back as they were put.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::fresh_folder;
using assay::test::with_runs;

namespace {

using Model = std::map<std::pair<std::int64_t, std::string>, std::uint64_t>;  // (step, key) -> bits

Model read(const Registry& records, std::int64_t run) {
  Model found;
  std::pair<std::int64_t, std::string> before{-1, ""};
  for (const MetricPoint& point : records.metrics(run)) {
    const std::pair here{point.step, point.key};
    CHECK(before < here);  // by step, then key, each once
    before = here;
    found[here] = std::bit_cast<std::uint64_t>(point.value);
  }
  return found;
}

}  // namespace

TEST_CASE("what is put in any order, again and again, is what a map would hold, bit for bit") {
  const auto file = fresh_folder("metrics/model") / "registry.sqlite";
  Model model;
  std::mt19937_64 random(20261125);
  const double special[] = {0.0, -0.0, std::nan(""), HUGE_VAL, -HUGE_VAL, 5e-324, std::numeric_limits<double>::max()};
  {
    auto records = with_runs(file, 2);
    for (int round = 0; round < 300; ++round) {
      std::vector<MetricPoint> points;
      for (std::uint64_t i = random() % 12; i-- > 0;) {
        MetricPoint point{static_cast<std::int64_t>(random() % 20), "k" + std::to_string(random() % 15), 0};
        point.value = random() % 3 == 0 ? special[random() % std::size(special)] : std::bit_cast<double>(random() >> 2);
        model[{point.step, point.key}] = std::bit_cast<std::uint64_t>(point.value);
        points.push_back(point);
      }
      records.put_metrics(1, points, {});
      if (round % 50 == 0) CHECK(read(records, 1) == model);
    }
    CHECK(records.metrics(2).empty());
  }
  const auto records = Registry::open(file, Registry::Access::read_only);
  CHECK(read(records, 1) == model);
  std::vector<std::string> names;
  for (int k = 0; k < 15; ++k) {
    names.push_back("k" + std::to_string(k));
    std::size_t expected = 0;
    for (const auto& [place, bits] : model) expected += place.second == names.back();
    const auto points = records.metrics(1, names.back());
    CHECK(points.size() == expected);
    const auto last = records.last_value(1, names.back());
    REQUIRE(last.has_value() == !points.empty());
    if (last) CHECK(std::bit_cast<std::uint64_t>(*last) == std::bit_cast<std::uint64_t>(points.back().value));
    for (const MetricPoint& point : points)
      CHECK(std::bit_cast<std::uint64_t>(point.value) == model.at({point.step, names.back()}));
  }
  std::sort(names.begin(), names.end());
  CHECK(records.metric_names(1) == names);
  CHECK(records.metrics(1, "none").empty());
  for (const MetricPoint& point : records.metrics_since(1, 15)) CHECK(point.step >= 15);
  CHECK(records.metrics_since(1, 15).size() ==
        static_cast<std::size_t>(std::count_if(model.begin(), model.end(), [](const auto& p) { return p.first.first >= 15; })));
}

TEST_CASE("a metric's number that a rolled-back batch gave out is given out anew") {
  auto records = with_runs(fresh_folder("metrics/rollback") / "registry.sqlite", 1);
  CHECK_THROWS(records.batch([&] {
    records.put_metrics(1, {{1, "first", 1}}, {});
    throw std::runtime_error("no");
  }));
  records.put_metrics(1, {{1, "second", 2}}, {});
  records.put_metrics(1, {{1, "first", 3}}, {});
  const auto points = records.metrics(1);
  REQUIRE(points.size() == 2);
  CHECK((points[0].key == "first" && points[0].value == 3));
  CHECK((points[1].key == "second" && points[1].value == 2));
}

TEST_CASE("every registry that a former assay wrote, in the golden folder, is read") {
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(assay::test::source("tests/golden/registry"))) {
    if (entry.path().extension() != ".sqlite") continue;
    CAPTURE(entry.path());
    const auto file = fresh_folder("metrics/golden") / "registry.sqlite";
    std::filesystem::copy_file(entry.path(), file);
    auto records = Registry::open(file, Registry::Access::read_write);
    CHECK(records.problems().empty());
    const auto points = records.metrics(1);
    REQUIRE(points.size() == 3);
    CHECK((points[0].step == 0 && points[0].key == "val-core/acc" && points[0].value == 0.08));
    CHECK((points[1].key == "grad" && points[1].value == HUGE_VAL));
    CHECK((points[2].key == "loss" && std::isnan(points[2].value)));
    ++seen;
  }
  CHECK(seen >= 1);
}

// fill_registry FILE RUNS STEPS METRICS: a registry of that many ended runs of one series, each with STEPS x METRICS points,
// an evaluation at its first and last step, and texts of the usual size. For bench/peers/tracking.py.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "registry/registry.h"

using namespace assay::registry;

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: fill_registry FILE RUNS STEPS METRICS\n");
    return 2;
  }
  const int runs = std::atoi(argv[2]), steps = std::atoi(argv[3]), metrics = std::atoi(argv[4]);
  Registry registry = Registry::open(argv[1], Registry::Access::read_write);
  registry.put_series({"bench", "Bench", "", "{}"});
  std::vector<std::int64_t> keys;
  for (int k = 0; k < metrics; ++k) keys.push_back(registry.metric_key(k == 0 ? "critic/score/mean" : "bench/metric-" + std::to_string(k)));
  const std::string filler(2000, 'x');
  for (int first = 0; first < runs; first += 100) {
    registry.batch([&] {
      std::vector<NewRun> rows;
      for (int i = first; i < std::min(runs, first + 100); ++i) {
        NewRun row;
        row.series = "bench";
        row.run = "arm-" + std::to_string(i % 10);   // ten arms, each again and again
        row.seed = 1;
        row.batch = std::to_string(i / 10);
        row.config_sha256 = std::to_string(i);
        row.config_json = R"({"quant":{"format":"none"},"train":{"steps":)" + std::to_string(steps) +
                          R"(,"threads":1},"trainer":{"kind":"command"},"filler":")" + filler + "\"}";
        row.derived_json = row.inputs_json = row.environment_json = row.code_json = "{\"filler\":\"" + filler + "\"}";
        row.run_json = R"({"title":"an arm","baseline":"arm-0"})";
        rows.push_back(row);
      }
      const auto numbers = registry.add_runs(rows, [](std::int64_t number, const NewRun&) {
        return "/nowhere/" + std::to_string(number);
      });
      for (const std::int64_t number : numbers) {
        registry.transition(number, StateKind::queued, {StateKind::starting, {}, {}, ""}, 1e9);
        registry.transition(number, StateKind::starting, {StateKind::running, {}, {}, ""}, 1e9);
        std::vector<std::pair<std::int64_t, double>> values;
        for (int step = 1; step <= steps; ++step) {
          values.clear();
          for (int k = 0; k < metrics; ++k)
            values.emplace_back(keys[static_cast<std::size_t>(k)], static_cast<double>(number * step) * 0.37 + k);
          registry.put_metric_line(number, step, values);
        }
        registry.put_progress(number, {steps, steps, 0.5, 0.5, 1e9});
        for (const int step : {0, steps}) registry.put_evaluation(number, {step, 1024, 512, 600, 600, "none", "none", "sha", {}});
        registry.transition(number, StateKind::running, {StateKind::succeeded, 0, {}, ""}, 1e9 + 60);
      }
    });
  }
  std::printf("%d runs, %lld points\n", runs, static_cast<long long>(runs) * steps * metrics);
}

// web_registry HOME COUNT: adds that many runs that have ended, with metrics and an evaluation each, to a home's registry.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "registry/registry.h"

using namespace assay::registry;
using nlohmann::json;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: web_registry HOME COUNT\n");
    return 2;
  }
  const std::filesystem::path home = argv[1];
  const int count = std::atoi(argv[2]);
  std::filesystem::create_directories(home);
  Registry registry = Registry::open(home / "registry.sqlite", Registry::Access::read_write);
  const std::vector<StateKind> ends = {StateKind::succeeded, StateKind::succeeded, StateKind::succeeded,
                                       StateKind::failed,    StateKind::killed,    StateKind::skipped};
  registry.batch([&] {
    registry.put_series({"sweep", "A sweep of learning rates", "Many runs", R"({"success_accuracy":50})"});
    std::vector<NewRun> runs;
    for (int i = 0; i < count; ++i) {
      NewRun run;
      run.series = "sweep";
      run.run = "lr-" + std::to_string(i / 10);
      run.seed = 1 + i % 10;
      run.batch = "b";
      run.config_json = json{{"train", {{"seed", run.seed}, {"steps", 20}, {"threads", 1}}},
                             {"trainer", {{"kind", "command"}}},
                             {"quant", {{"format", "none"}}}}.dump();
      run.config_sha256 = "0";
      run.derived_json = "{}";
      run.run_json = json{{"title", i % 97 == 0 ? "<script>alert(1)</script>" : "Learning rate " + std::to_string(i / 10)}}.dump();
      run.code_json = run.environment_json = run.inputs_json = "{}";
      runs.push_back(std::move(run));
    }
    double now = 1'790'000'000;
    const auto numbers = registry.add_runs(runs, [&](std::int64_t number, const NewRun&) {
      return (home / "runs" / "sweep" / std::to_string(number)).string();
    });
    for (const std::int64_t number : numbers) {
      const StateKind end = ends[static_cast<std::size_t>(number) % ends.size()];
      if (end == StateKind::skipped) {
        registry.transition(number, StateKind::queued, {end, {}, {}, "run 1 failed"}, now);
        continue;
      }
      registry.transition(number, StateKind::queued, {StateKind::starting, {}, {}, ""}, now);
      registry.transition(number, StateKind::starting, {StateKind::running, {}, {}, ""}, now += 1);
      Progress progress{20, 20, 0.001 * static_cast<double>(number % 1000), 0.0005 * static_cast<double>(number % 2000), now};
      registry.put_metrics(number, {{1, "critic/score/mean", 0.1}, {20, "critic/score/mean", *progress.score}}, progress);
      State state{end, {}, {}, ""};
      if (end == StateKind::failed) state = {end, 1, {}, "CUDA error: <b>out of memory</b>"};
      if (end == StateKind::killed) state.detail = "somebody";
      registry.transition(number, StateKind::running, state, now += 40);
    }
  });
  return 0;
}

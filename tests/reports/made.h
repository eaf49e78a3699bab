// A series made up for tests: seven arms, three seeds, and every way a run can go wrong.
#pragma once

#include <string>
#include <vector>

#include "reports/series_log.h"

namespace assay::test {

inline report::EvalPoint made_point(std::int64_t step, std::int64_t correct, std::int64_t problems, std::int64_t shift,
                                    const std::string& quant) {
  report::EvalPoint point;
  point.step = step;
  point.problems = problems;
  point.correct = correct;
  point.quant = point.trained_quant = quant;
  point.data_sha256 = "d1";
  for (std::int64_t i = 0; i < problems; ++i) point.outcomes.push_back((i + shift) % problems < correct);
  return point;
}

struct Made {
  std::string id, format, hook, blocking;
  bool ste;
  std::string baseline;
  std::int64_t first, last;   // right of 200
};

inline report::LoggedRun made_run(const Made& made, std::int64_t seed, std::int64_t number) {
  report::LoggedRun run;
  report::RunResult& r = run.result;
  r.number = number;
  r.id = made.id;
  r.title = "the run " + made.id;
  r.format = made.format;
  r.hook = made.format == "none" ? "-" : made.hook;
  r.blocking = made.format == "none" ? "-" : made.blocking;
  r.ste = made.format == "none" ? "-" : made.ste ? "yes" : "no";
  r.baseline = made.baseline;
  r.seed = seed;
  r.state = "succeeded";
  r.steps = 20;
  r.training_score = 0.01 * static_cast<double>(made.last) / 4;
  r.adapter_tensors = 8;
  r.adapters_with_gradient = made.ste || made.format == "none" ? 8 : 2;
  run.quant_label = made.format == "none" ? "none" : made.format + " W4A4 " + made.hook + " " + made.blocking;
  r.first = made_point(0, made.first + seed % 2, 200, 0, run.quant_label);
  r.last = made_point(20, made.last + 3 * seed, 200, seed, run.quant_label);
  for (const auto* point : {&*r.first, &*r.last}) {
    run.evaluations.push_back(*point);
    run.evaluations.back().outcomes.clear();
  }
  for (std::int64_t step = 1; step <= 20; ++step)
    run.scores.emplace_back(step, 0.1 + 0.002 * static_cast<double>(step * made.last) / 100 + 0.003 * static_cast<double>(seed));
  run.config = {{"quant.format", "\"" + made.format + "\""}, {"quant.hook", "\"" + made.hook + "\""},
                {"quant.blocking", "\"" + made.blocking + "\""}, {"quant.ste", made.ste ? "true" : "false"},
                {"quant.mode", made.format == "mxfp4" ? "\"floor\"" : "\"te\""}, {"optimizer.lr", "0.0001"}};
  run.config_sha256 = "c0ffee" + std::to_string(number) + "000000000000";
  run.hypothesis = "What " + made.id + " is to show.";
  if (!made.baseline.empty()) run.changed = {{"quant.x", "a -> b"}};
  run.code_commit = "0123456789abcdef";
  run.assay_commit = "commit fedcba98";
  run.environment = "Debian, a processor, 2 processors";
  run.folder = "/home/runs/" + made.id + "-s" + std::to_string(seed);
  for (int layer = 0; layer < 4; ++layer) {
    run.coverage.push_back({made.ste || layer == 3 ? 2 : 0, 2});
    if (made.format != "none") run.weight_error.push_back(10 + layer + (made.format == "mxfp4" ? 4 : 0));
  }
  if (made.format != "none") run.mean_weight_error = made.format == "mxfp4" ? 15.5 : 11.5;
  return run;
}

inline report::SeriesLog made_series() {
  const std::vector<Made> arms = {
      {"bf16", "none", "post", "row", false, "", 17, 180},          {"a-mxfp4", "mxfp4", "post", "row", false, "bf16", 17, 17},
      {"a-nvfp4", "nvfp4", "post", "row", false, "a-mxfp4", 16, 17}, {"d", "nvfp4", "pre", "row", false, "a-nvfp4", 16, 50},
      {"f", "nvfp4", "pre", "column", false, "d", 16, 51},           {"g", "nvfp4", "pre", "column", true, "f", 17, 165},
      {"h", "mxfp4", "pre", "column", true, "g", 17, 150}};
  report::SeriesLog log;
  log.id = "made";
  log.title = "A made-up series";
  log.goal = "Show every part of a log";
  log.dates = {"2026-01-14", "2026-01-15"};
  log.next_steps = {"i: h with noise"};
  log.causes = {{"format", "a-nvfp4", "a-mxfp4", "", ""},          {"hook", "d", "a-nvfp4", "A note.", ""},
                {"blocking", "f", "d", "", ""},                     {"straight-through estimator", "g", "f", "", ""},
                {"hook and blocking", "f", "a-nvfp4", "", ""},      {"gone", "z", "g", "", ""}};
  std::int64_t number = 0;
  for (const Made& made : arms)
    for (std::int64_t seed = 1; seed <= 3; ++seed) log.runs.push_back(made_run(made, seed, ++number));
  const auto also = [&](const std::string& id, const std::string& state, const std::string& detail) {
    report::LoggedRun run = made_run({id, "nvfp4", "pre", "row", true, "g", 17, 100}, 1, ++number);
    run.result.state = state;
    run.result.state_detail = detail;
    run.result.last.reset();
    run.evaluations.pop_back();
    log.runs.push_back(run);
  };
  also("failing", "failed", "out of memory");
  also("lost", "lost", "");
  also("waiting", "queued", "");
  log.runs.push_back(made_run({"left-out", "nvfp4", "pre", "row", true, "g", 17, 190}, 1, ++number));
  log.runs.back().result.excluded = "wrong data";
  log.runs.push_back(made_run({"elsewhere", "nvfp4", "pre", "column", true, "", 17, 140}, 1, ++number));
  log.runs.back().result.last->quant = "none";   // measured without the quantizer it was trained under
  log.runs.back().evaluations.back().quant = "none";
  log.earlier.push_back(made_run(arms[0], 1, ++number));
  log.earlier.push_back(made_run(arms[1], 1, ++number));
  log.earlier.back().repeats = "4";
  log.not_run = {"never"};
  return log;
}

}  // namespace assay::test

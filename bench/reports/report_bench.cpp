// A registry of many made-up runs of one series, and how long its log takes: report_bench FOLDER RUNS [SEEDS]
// Every run has two evaluations with the outcome of each of 1024 problems, and 20 steps of scores. Prints seconds: reading
// the rows, the document, Markdown, HTML, appendix; pictures apart (they are gnuplot's time).
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "experiments/spec/canonical.h"
#include "registry/registry.h"
#include "reports/log.h"
#include "reports/pictures.h"
#include "runner/series_log.h"
#include "runner/series_report.h"

namespace {

using namespace assay;
using nlohmann::json;
namespace fs = std::filesystem;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void fill(registry::Registry& registry, const fs::path& folder, int runs, int seeds) {
  std::mt19937 random(1);
  json causes = json::array(), listed = json::array();
  for (int i = 0; i * seeds < runs; ++i) {
    const std::string id = "arm-" + std::to_string(i);
    listed.push_back({{"id", id}});
    if (i > 0 && i < 20) causes.push_back({{"name", "cause " + std::to_string(i)}, {"run", id}, {"against", "arm-" + std::to_string(i - 1)}});
  }
  registry.put_series({"bench", "A made-up series", "Take long", json{{"runs", listed}, {"causes", causes}}.dump()});
  registry.batch([&] {
    for (int i = 0; i < runs; ++i) {
      spec::Config config;
      config.quant.format = i / seeds % 2 == 0 ? "nvfp4" : "mxfp4";
      config.quant.mode = spec::default_mode(config.quant.format);
      config.optimizer.lr = 1e-5 * (1 + i / seeds);
      config.train.seed = 1 + i % seeds;
      registry::NewRun run;
      run.series = "bench";
      run.run = "arm-" + std::to_string(i / seeds);
      run.seed = config.train.seed;
      run.batch = "b";
      run.config_json = spec::canonical_json(config);
      run.config_sha256 = spec::config_hash(config);
      run.derived_json = spec::derived_json({});
      run.run_json = json{{"title", "a run"}, {"hypothesis", "none"}, {"baseline", i < seeds ? "" : "arm-0"}}.dump();
      run.code_json = run.environment_json = run.inputs_json = "{}";
      const auto number = registry.add_runs({run}, [&](std::int64_t n, const registry::NewRun&) {
        fs::create_directory(folder / std::to_string(n));   // the registry writes down the run's states there
        return (folder / std::to_string(n)).string();
      }).at(0);
      std::vector<registry::MetricPoint> points;
      for (int step = 1; step <= 20; ++step) points.push_back({step, "critic/score/mean", 0.01 * step});
      registry.put_metrics(number, points, {20, 20, 0.2, 0.5, 1});
      for (const std::int64_t step : {0, 20}) {
        registry::Evaluation evaluation{step, 1024, 0, 0, 0, "nvfp4", "nvfp4", "sha", {}};
        for (std::int64_t problem = 0; problem < 1024; ++problem) {
          const bool right = random() % 100 < (step == 0 ? 8U : 20U + static_cast<unsigned>(i) % 60U);
          evaluation.correct += right;
          evaluation.outcomes.push_back({problem, right ? "correct" : "wrong", right, right, right});
        }
        registry.put_evaluation(number, evaluation);
      }
      registry.transition(number, registry::StateKind::queued, {registry::StateKind::succeeded, {}, {}, ""}, 1);
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "report_bench FOLDER RUNS [SEEDS]\n"), 2;
  const fs::path folder = argv[1];
  const int runs = std::atoi(argv[2]), seeds = argc > 3 ? std::atoi(argv[3]) : 3;
  fs::create_directories(folder);
  auto registry = registry::Registry::open(folder / "registry.sqlite", registry::Registry::Access::read_write);
  if (registry.runs({}).empty()) fill(registry, folder, runs, seeds);
  double at = now();
  const auto lap = [&](const char* what) {
    const double then = now();
    std::printf("%-10s %.3f s\n", what, then - at);
    at = then;
  };
  const report::SeriesLog log = runner::series_log(registry, "bench");
  lap("rows");
  const report::Document document = report::series_document(log);
  lap("document");
  const std::string markdown = report::to_markdown(document);
  lap("Markdown");
  const std::string html = report::to_html(document, {});
  lap("HTML");
  const std::string appendix = report::to_appendix(document);
  lap("appendix");
  if (std::system("gnuplot --version > /dev/null 2>&1") == 0) {
    runner::draw(report::plots(log), "svg");
    lap("pictures");
  }
  std::printf("%zu runs, %zu bytes of Markdown, %zu of HTML, %zu of appendix\n", log.runs.size(), markdown.size(), html.size(), appendix.size());
}

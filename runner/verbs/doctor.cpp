#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "experiments/spec/shapes.h"
#include "runner/client.h"
#include "runner/doctor.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/resolve.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

using nlohmann::json;

void print_text(const DoctorJob& job, const DoctorResult& result) {
  std::printf("%s\n", job.name.c_str());
  if (!result.error.empty()) {
    std::printf("  error: no preflight was possible: %s\n", result.error.c_str());
    return;
  }
  const json document = json::parse(result.json);
  for (const json& finding : document.value("findings", json::array())) {
    std::printf("  %s: %s\n", finding.value("severity", "").c_str(), finding.value("what", "").c_str());
    if (const std::string evidence = finding.value("evidence", ""); !evidence.empty())
      std::printf("    %s\n", evidence.c_str());
    if (const std::string change = finding.value("change", ""); !change.empty())
      std::printf("    to change it: %s\n", change.c_str());
  }
}

// Has the job look at random weights of the shape of the model that should lie there.
void random_weights(DoctorJob& job, const std::filesystem::path& model) {
  std::filesystem::path shape = model;
  if (!std::filesystem::exists(shape / "config.json")) shape = spec::find_shape(model.filename().string());
  if (shape.empty())
    throw UserError(kRefused, model.string() + ": there is no config.json in it, nor a folder shapes/" + model.filename().string() +
                                  " beside the series, so its shape is not known; put one there");
  job.options = {"--random-weights", "--shape", shape.string()};
  job.alone = true;
}

}  // namespace

std::function<int()> setup_doctor(CLI::App& app) {
  struct Options {
    ResolveOptions what;
    bool json = false, random_weights = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("WHAT", options->what.words, "a series, a file, a run of a series, or the number of a former run")
      ->required();
  app.add_option("--only", options->what.only, "only these runs of the series")->delimiter(',')->take_all()->expected(1);
  app.add_option("--set", options->what.set, "KEY=VALUE in every config; several times")->take_all()->expected(1);
  app.add_flag("--random-weights", options->random_weights,
               "without model and data: random weights of the model's shape (its config.json, or shapes/NAME beside the series)");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    std::optional<registry::Registry> registry;
    if (std::filesystem::exists(paths.registry())) {
      Client::connect(paths);  // not needed here, but runs that a killed daemon has left go on with any command
      registry.emplace(registry::Registry::open(paths.registry(), registry::Registry::Access::read_only));
    }
    std::vector<DoctorJob> jobs;
    std::string missing;
    for (const ResolvedSeries& series : resolve(options->what, registry ? &*registry : nullptr))
      for (const ResolvedRun& run : series.runs) {
        if (run.config.trainer.kind != "embedded")
          throw UserError(kRefused, "doctor: run " + run.run.run + " is trained by a program of its own (trainer.kind = "
                                    "\"command\"), which assay cannot look into; leave it out with --only");
        const std::string lack = options->random_weights ? "" : spec::missing_to_run(run.config, run.derived);
        if (!lack.empty() && missing.find(lack) == std::string::npos)
          missing += (missing.empty() ? "" : "\n") + series.series.id + ": " + lack;
        jobs.push_back(doctor_job(run, run.run.run));
        if (options->random_weights) random_weights(jobs.back(), run.derived.model_path);
      }
    if (!missing.empty()) throw UserError(kRefused, missing);
    const std::vector<DoctorResult> results = run_doctors(paths, jobs);
    bool wrong = false, failed = false;
    json documents = json::array();
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      wrong |= results[i].exit_code == 6;
      failed |= !results[i].error.empty();
      if (!options->json) {
        print_text(jobs[i], results[i]);
      } else if (results[i].error.empty()) {
        documents.push_back({{"run", jobs[i].name}, {"doctor", json::parse(results[i].json)}});
      } else {
        documents.push_back({{"run", jobs[i].name}, {"error", results[i].error}});
      }
    }
    if (options->json) std::printf("%s\n", dump(documents).c_str());
    return static_cast<int>(failed ? kRefused : wrong ? kFindings : kOk);
  };
}

}  // namespace assay::runner

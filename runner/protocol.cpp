#include "runner/protocol.h"

namespace assay::runner {

using nlohmann::json;

std::string dump(const json& object) { return object.dump(-1, ' ', false, json::error_handler_t::replace); }

json failure(const std::string& sentence, int code) { return {{"ok", false}, {"error", sentence}, {"code", code}}; }

json to_json(const Submission& submission) {
  json object;
  object["series"] = {{"id", submission.series.id},
                      {"title", submission.series.title},
                      {"goal", submission.series.goal},
                      {"json", submission.series.json}};
  object["files"] = json::array();
  for (const FrozenFile& file : submission.files) object["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  // The facts are the same for all runs of one command: sent once.
  if (!submission.runs.empty()) {
    const registry::NewRun& first = submission.runs.front().run;
    object["code"] = first.code_json;
    object["environment"] = first.environment_json;
  }
  object["runs"] = json::array();
  for (const auto& [run, doctor] : submission.runs)
    object["runs"].push_back({{"run", run.run},
                              {"seed", run.seed},
                              {"batch", run.batch},
                              {"config", run.config_json},
                              {"config_sha256", run.config_sha256},
                              {"derived", run.derived_json},
                              {"run_json", run.run_json},
                              {"inputs", run.inputs_json},
                              {"priority", run.priority},
                              {"after", run.after},
                              {"doctor", doctor}});
  return object;
}

Submission submission_from_json(const json& object) {
  Submission submission;
  const json& series = object.at("series");
  submission.series = {series.at("id").get<std::string>(), series.at("title").get<std::string>(),
                       series.at("goal").get<std::string>(), series.at("json").get<std::string>()};
  for (const json& file : object.at("files"))
    submission.files.push_back({file.at("name").get<std::string>(), file.at("bytes").get<std::string>()});
  for (const json& row : object.at("runs")) {
    SubmittedRun submitted;
    registry::NewRun& run = submitted.run;
    run.series = submission.series.id;
    run.run = row.at("run").get<std::string>();
    run.seed = row.at("seed").get<std::int64_t>();
    run.batch = row.at("batch").get<std::string>();
    run.config_json = row.at("config").get<std::string>();
    run.config_sha256 = row.at("config_sha256").get<std::string>();
    run.derived_json = row.at("derived").get<std::string>();
    run.run_json = row.at("run_json").get<std::string>();
    run.code_json = object.at("code").get<std::string>();
    run.environment_json = object.at("environment").get<std::string>();
    run.inputs_json = row.at("inputs").get<std::string>();
    run.priority = row.at("priority").get<std::int64_t>();
    run.after = row.at("after").get<std::vector<std::int64_t>>();
    submitted.doctor_json = row.at("doctor").get<std::string>();
    submission.runs.push_back(std::move(submitted));
  }
  return submission;
}

}  // namespace assay::runner

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
                              {"group", run.group},
                              {"after", run.after},
                              {"after_any", run.after_any},
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
    run.group = row.at("group").get<std::string>();
    run.after = row.at("after").get<std::vector<std::int64_t>>();
    run.after_any = row.at("after_any").get<std::vector<std::int64_t>>();
    submitted.doctor_json = row.at("doctor").get<std::string>();
    submission.runs.push_back(std::move(submitted));
  }
  return submission;
}

json to_json(const EditRequest& request) {
  json object = {{"number", request.number}, {"by", request.by}};
  const registry::RunEdit& edit = request.edit;
  if (edit.priority) object["priority"] = *edit.priority;
  if (edit.group) object["group"] = *edit.group;
  if (edit.after) object["after"] = *edit.after;
  if (edit.after_any) object["after_any"] = *edit.after_any;
  if (edit.config)
    object["config"] = {{"config", edit.config->config_json},
                        {"config_sha256", edit.config->config_sha256},
                        {"derived", edit.config->derived_json},
                        {"run_json", edit.config->run_json}};
  return object;
}

EditRequest edit_from_json(const json& object) {
  EditRequest request;
  request.number = object.at("number").get<std::int64_t>();
  request.by = object.at("by").get<std::string>();
  registry::RunEdit& edit = request.edit;
  if (object.contains("priority")) edit.priority = object.at("priority").get<std::int64_t>();
  if (object.contains("group")) edit.group = object.at("group").get<std::string>();
  if (object.contains("after")) edit.after = object.at("after").get<std::vector<std::int64_t>>();
  if (object.contains("after_any")) edit.after_any = object.at("after_any").get<std::vector<std::int64_t>>();
  if (object.contains("config")) {
    const json& config = object.at("config");
    edit.config = registry::RunEdit::Config{config.at("config").get<std::string>(),
                                            config.at("config_sha256").get<std::string>(),
                                            config.at("derived").get<std::string>(), config.at("run_json").get<std::string>()};
  }
  return request;
}

}  // namespace assay::runner

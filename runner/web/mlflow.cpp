#include "runner/web/mlflow.h"

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/exporting.h"
#include "runner/protocol.h"

namespace assay::runner {
namespace {

using nlohmann::json;

// MLflow's own limits of one log-batch request and of one value.
constexpr std::size_t kMetricsAtOnce = 900, kParametersAtOnce = 100;
constexpr std::size_t kLongestParameter = 6000, kLongestTag = 8000;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string base64(const std::string& bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j) text += i + j > bytes.size() ? '=' : digits[group >> (18 - 6 * j) & 63];
  }
  return text;
}

std::map<std::string, std::string> credentials() {
  if (const std::string token = environment("MLFLOW_TRACKING_TOKEN"); !token.empty()) return {{"Authorization", "Bearer " + token}};
  if (const std::string user = environment("MLFLOW_TRACKING_USERNAME"); !user.empty())
    return {{"Authorization", "Basic " + base64(user + ":" + environment("MLFLOW_TRACKING_PASSWORD"))}};
  return {};
}

std::int64_t milliseconds(double seconds) { return std::llround(seconds * 1000); }

json value_json(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

std::string cut(const std::string& text, std::size_t bytes) {
  if (text.size() <= bytes) return text;
  std::size_t end = bytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

const char* status_of(const std::string& state) {
  static const std::map<std::string, const char*> words = {
      {"queued", "SCHEDULED"}, {"blocked", "SCHEDULED"}, {"starting", "RUNNING"}, {"running", "RUNNING"},
      {"succeeded", "FINISHED"}, {"killed", "KILLED"}, {"skipped", "KILLED"}};
  const auto found = words.find(state);
  return found == words.end() ? "FAILED" : found->second;   // failed, stalled, lost
}

std::string experiment_id(Mlflow& server, const std::string& name) {
  const json found = server.get("experiments/get-by-name", "experiment_name=" + web::percent_encoded(name));
  if (found.is_object()) return found.at("experiment").at("experiment_id").get<std::string>();
  return server.post("experiments/create", {{"name", name}}).at("experiment_id").get<std::string>();
}

json tags_of(const report::ExportedRun& run, const std::string& uid) {
  json tags = json::array();
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) tags.push_back({{"key", key}, {"value", cut(value, kLongestTag)}});
  };
  add("mlflow.runName", run.id + " s" + std::to_string(run.seed));
  add("mlflow.note.content", run.title + (run.hypothesis.empty() ? "" : "\n\n" + run.hypothesis));
  add("mlflow.source.git.commit", run.commit);
  add("assay.uid", uid);
  add("assay.number", std::to_string(run.number));
  add("assay.series", run.series);
  add("assay.run", run.id);
  add("assay.baseline", run.baseline);
  add("assay.state", run.state);
  add("assay.detail", run.detail);
  add("assay.config_sha256", run.config_sha256);
  json evaluations = json::array();   // what a share alone does not say; `assay import mlflow` reads it
  for (const report::ExportedEvaluation& each : run.evaluations)
    evaluations.push_back({{"step", each.step}, {"problems", each.problems}, {"correct", each.correct}, {"quant", each.quant},
                           {"trained_quant", each.trained_quant}, {"data_sha256", each.data_sha256}});
  if (const std::string text = dump(evaluations); !evaluations.empty() && text.size() <= kLongestTag) add("assay.evaluations", text);
  add("assay.accuracy_measured_otherwise", report::other_quant_words(run));
  add("assay.folder", run.folder);
  return tags;
}

void log_everything(Mlflow& server, const std::string& id, const report::ExportedRun& run, const json& tags) {
  json parameters = json::array(), metrics = json::array();
  for (const auto& [key, text] : run.config) {
    const json value = json::parse(text, nullptr, false);
    parameters.push_back({{"key", mlflow_name(key)}, {"value", cut(value.is_string() ? value.get<std::string>() : text, kLongestParameter)}});
  }
  for (const report::ExportedPoint& point : run.points)
    metrics.push_back({{"key", mlflow_name(point.key)}, {"value", value_json(point.value)}, {"timestamp", milliseconds(point.time)}, {"step", point.step}});
  for (const report::ExportedEvaluation& each : run.evaluations)
    if (each.problems > 0)
      metrics.push_back({{"key", "eval/accuracy"}, {"value", static_cast<double>(each.correct) / static_cast<double>(each.problems)},
                         {"timestamp", milliseconds(run.started)}, {"step", each.step}});
  for (std::size_t i = 0; i < parameters.size(); i += kParametersAtOnce) {
    const json some(parameters.begin() + static_cast<std::ptrdiff_t>(i), parameters.begin() + static_cast<std::ptrdiff_t>(std::min(parameters.size(), i + kParametersAtOnce)));
    server.post("runs/log-batch", {{"run_id", id}, {"params", some}});
  }
  for (std::size_t i = 0; i < metrics.size(); i += kMetricsAtOnce) {
    const json some(metrics.begin() + static_cast<std::ptrdiff_t>(i), metrics.begin() + static_cast<std::ptrdiff_t>(std::min(metrics.size(), i + kMetricsAtOnce)));
    server.post("runs/log-batch", {{"run_id", id}, {"metrics", some}});
  }
  server.post("runs/log-batch", {{"run_id", id}, {"tags", tags}});
  json update = {{"run_id", id}, {"status", status_of(run.state)}};
  if (run.ended > 0) update["end_time"] = milliseconds(run.ended);
  server.post("runs/update", update);
}

}  // namespace

Mlflow::Mlflow(const std::string& address) try : address_(address), client_(address, credentials()) {
} catch (const std::invalid_argument& error) {
  throw UserError(kUsage, std::string("mlflow: ") + error.what());
}

json Mlflow::post(const std::string& what, const json& body) {
  return answer(what, false, [&] { return client_.post("/api/2.0/mlflow/" + what, dump(body)); });
}

json Mlflow::get(const std::string& what, const std::string& query) {
  return answer(what, true, [&] { return client_.get("/api/2.0/mlflow/" + what + "?" + query); });
}

json Mlflow::answer(const std::string& what, bool may_be_missing, const std::function<web::Response()>& ask) {
  web::Response response;
  try {
    response = ask();
  } catch (const std::runtime_error& error) {
    throw UserError(kFault, std::string("mlflow: ") + error.what() + "; start the server, or give another address");
  }
  const json document = json::parse(response.body, nullptr, false);
  if (response.status == 200 && document.is_object()) return document;
  const std::string code = document.is_object() ? document.value("error_code", "") : "";
  if (may_be_missing && code == "RESOURCE_DOES_NOT_EXIST") return nullptr;
  std::string said = document.is_object() ? document.value("message", code) : "an answer that is no JSON";
  for (char& c : said)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  throw UserError(kRefused, "mlflow: " + address_ + " refuses " + what + " with status " + std::to_string(response.status) +
                                ": " + said.substr(0, 500));
}

std::string mlflow_name(const std::string& name) {
  std::string taken = name;
  for (char& c : taken)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && std::strchr("_-.: /", c) == nullptr) c = '_';
  return taken;
}

std::vector<MlflowRun> export_to_mlflow(const MlflowTarget& target, const std::vector<report::ExportedRun>& runs) {
  Mlflow server(target.address);
  std::map<std::string, std::string> experiments;
  std::vector<MlflowRun> done;
  for (const report::ExportedRun& run : runs) {
    const std::string name = target.experiment.empty() ? run.series : target.experiment;
    std::string& experiment = experiments[name];
    if (experiment.empty()) experiment = experiment_id(server, name);
    // The folder holds the number, and the time tells two data folders apart that were at one place.
    const std::string uid = run.folder + "@" + std::to_string(milliseconds(run.created));
    const json tags = tags_of(run, uid);
    MlflowRun result{std::to_string(run.number) + " " + run.id + " s" + std::to_string(run.seed), "", false};
    std::string quoted;
    for (const char c : uid) quoted += c == '\'' ? std::string("\\'") : std::string(1, c);
    const json known = server.post("runs/search", {{"experiment_ids", {experiment}}, {"filter", "tags.`assay.uid` = '" + quoted + "'"}, {"max_results", 1}});
    if (known.contains("runs") && !known.at("runs").empty()) {
      result.id = known.at("runs").at(0).at("info").at("run_id").get<std::string>();
      result.again = true;
    } else {
      const json made = server.post("runs/create", {{"experiment_id", experiment}, {"run_name", run.id + " s" + std::to_string(run.seed)},
                                                    {"start_time", milliseconds(run.started > 0 ? run.started : run.created)}, {"tags", tags}});
      result.id = made.at("run").at("info").at("run_id").get<std::string>();
    }
    log_everything(server, result.id, run, tags);
    done.push_back(std::move(result));
  }
  return done;
}

}  // namespace assay::runner

#include "runner/diff.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "support/files.h"
#include "support/safetensors.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;
using registry::RunRow;

bool is_volatile(const std::string& key) { return key.rfind("timing_s/", 0) == 0 || key.rfind("perf/", 0) == 0; }

bool same_bits(double a, double b) {
  if (a != a && b != b) return true;
  return std::memcmp(&a, &b, sizeof a) == 0;
}

double relative(double a, double b) {
  if (same_bits(a, b)) return 0;
  if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
  return std::fabs(a - b) / std::max(std::fabs(a), std::fabs(b));
}

// JSON has no NaN; metrics.jsonl writes these words, too.
json number(const std::optional<double>& value) {
  if (!value) return nullptr;
  if (*value != *value) return "nan";
  if (std::isinf(*value)) return *value > 0 ? "inf" : "-inf";
  return *value;
}

std::string dotted(std::string pointer) {
  if (!pointer.empty()) pointer.erase(0, 1);
  std::replace(pointer.begin(), pointer.end(), '/', '.');
  return pointer;
}

// Lines of a diff that the other one does not have (as often), in order.
json lines_only_in(const std::string& one, const std::string& other) {
  std::multiset<std::string> theirs;
  const auto each_line = [](const std::string& text, const auto& take) {
    for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
      end = std::min(text.find('\n', begin), text.size());
      take(text.substr(begin, end - begin));
    }
  };
  each_line(other, [&](const std::string& line) { theirs.insert(line); });
  json only = json::array();
  each_line(one, [&](const std::string& line) {
    const auto found = theirs.find(line);
    if (found != theirs.end()) theirs.erase(found);
    else only.push_back(line);
  });
  return only;
}

std::string text_of(const fs::path& file) { return fs::exists(file) ? support::read_file(file) : std::string(); }

json side(const RunRow& row) {
  return {{"number", row.number}, {"series", row.series}, {"run", row.run}, {"seed", row.seed}, {"folder", row.folder}};
}

json metrics_json(const MetricsDifference& metrics) {
  json there = json::array();
  for (const MetricPair& pair : metrics.there) there.push_back({{"key", pair.key}, {"a", number(pair.a)}, {"b", number(pair.b)}});
  return {{"compared", metrics.compared}, {"equal", metrics.equal},
          {"parts_at", metrics.parts_at ? json(*metrics.parts_at) : json(nullptr)}, {"there", there},
          {"largest", number(metrics.largest)}, {"largest_key", metrics.largest_key}, {"largest_step", metrics.largest_step}};
}

json compare_evaluations(const Registry& registry, std::int64_t a, std::int64_t b) {
  std::map<std::pair<std::int64_t, std::string>, std::pair<const registry::Evaluation*, const registry::Evaluation*>> all;
  const auto ours = registry.evaluations(a, true), theirs = registry.evaluations(b, true);
  for (const auto& evaluation : ours) all[{evaluation.step, evaluation.quant}].first = &evaluation;
  for (const auto& evaluation : theirs) all[{evaluation.step, evaluation.quant}].second = &evaluation;
  json rows = json::array();
  for (const auto& [key, pair] : all) {
    json row = {{"step", key.first}, {"quant", key.second}, {"a", nullptr}, {"b", nullptr}, {"problems", nullptr}, {"different", nullptr}};
    if (pair.first) row["a"] = pair.first->correct, row["problems"] = pair.first->problems;
    if (pair.second) row["b"] = pair.second->correct, row["problems"] = pair.second->problems;
    if (pair.first && pair.second) {
      if (pair.first->data_sha256 != pair.second->data_sha256 || pair.first->problems != pair.second->problems) {
        row["problems"] = nullptr;  // other problems: nothing to compare one by one
      } else if (!pair.first->outcomes.empty() && pair.first->outcomes.size() == pair.second->outcomes.size()) {
        std::int64_t different = 0;
        for (std::size_t i = 0; i < pair.first->outcomes.size(); ++i)
          different += pair.first->outcomes[i].outcome != pair.second->outcomes[i].outcome;
        row["different"] = different;
      }
    }
    const bool known_to_differ = !row["different"].is_null() && row["different"] != 0;
    if (row["a"] != row["b"] || known_to_differ || row["problems"].is_null()) rows.push_back(row);
  }
  return rows;
}

json compare_records(const Registry& registry, const RunRow& a, const RunRow& b) {
  std::map<std::pair<std::string, std::string>, std::pair<json, json>> all;
  const auto take = [&](const RunRow& row, bool first) {
    for (const registry::Record& record : registry.records_of_run(row.number)) {
      if (!record.newest || record.withdrawn) continue;
      auto& pair = all[{record.kind, record.kind == "note" ? record.text : record.subject}];  // notes have no other name
      (first ? pair.first : pair.second) = record.text;
    }
  };
  take(a, true);
  take(b, false);
  json rows = json::array();
  for (const auto& [key, pair] : all)
    if (pair.first != pair.second)
      rows.push_back({{"kind", key.first}, {"subject", key.first == "note" ? "" : key.second}, {"a", pair.first}, {"b", pair.second}});
  return rows;
}

std::string cell(const json& value) {
  if (value.is_null()) return "-";
  std::string text = value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

void section(std::string& text, const char* title, const json& rows, const char* key = "key") {
  text += std::string(title) + (rows.empty() ? ": the same\n" : "\n");
  for (const json& row : rows) text += "  " + cell(row.at(key)) + ": " + cell(row.at("a")) + " | " + cell(row.at("b")) + "\n";
}

std::string first_difference(const fs::path& a, const fs::path& b) {
  const std::string ours = support::read_file(a), theirs = support::read_file(b);
  if (ours == theirs) return "";
  const auto [at, other] = std::mismatch(ours.begin(), ours.end(), theirs.begin(), theirs.end());
  std::string text = "differs from byte " + std::to_string(at - ours.begin()) + " on";
  if (a.extension() == ".jsonl")
    text = "differs in line " + std::to_string(std::count(ours.begin(), at, '\n') + 1);
  if (a.extension() != ".safetensors") return text;
  const auto one = support::SafetensorsFile::open(a), two = support::SafetensorsFile::open(b);
  std::size_t different = 0;
  std::string first;
  for (const auto& [name, view] : one.tensors()) {
    const auto found = two.tensors().find(name);
    if (found != two.tensors().end() && found->second.dtype == view.dtype && found->second.bytes == view.bytes &&
        std::memcmp(found->second.data, view.data, view.bytes) == 0)
      continue;
    if (different++ == 0) first = name;
  }
  if (different == 0) return text + "; the tensors are the same";
  return "differs in " + std::to_string(different) + " of " + std::to_string(one.tensors().size()) + " tensors, the first is " + first;
}

}  // namespace

MetricsDifference compare_metrics(const Registry& registry, std::int64_t a, std::int64_t b) {
  std::map<std::pair<std::int64_t, std::string>, MetricPair> points;
  for (const registry::MetricPoint& point : registry.metrics(a))
    if (!is_volatile(point.key)) points[{point.step, point.key}] = {point.key, point.value, std::nullopt};
  for (const registry::MetricPoint& point : registry.metrics(b)) {
    if (is_volatile(point.key)) continue;
    MetricPair& pair = points[{point.step, point.key}];
    pair.key = point.key;
    pair.b = point.value;
  }
  MetricsDifference result;
  result.compared = points.size();
  for (const auto& [place, pair] : points) {  // by step, then key
    const double difference = pair.a && pair.b ? relative(*pair.a, *pair.b) : std::numeric_limits<double>::infinity();
    if (pair.a && pair.b && same_bits(*pair.a, *pair.b)) {
      ++result.equal;
      continue;
    }
    if (!result.parts_at) result.parts_at = place.first;
    if (*result.parts_at == place.first) result.there.push_back(pair);
    if (difference > result.largest || result.largest_key.empty()) {
      result.largest = difference;
      result.largest_key = pair.key;
      result.largest_step = place.first;
    }
  }
  return result;
}

json compare_json(const std::string& a, const std::string& b) {
  const json ours = json::parse(a).flatten(), theirs = json::parse(b).flatten();
  std::map<std::string, std::pair<json, json>> all;
  for (const auto& [key, value] : ours.items()) all[key].first = value;
  for (const auto& [key, value] : theirs.items()) all[key].second = value;
  json rows = json::array();
  for (const auto& [key, pair] : all)
    if (pair.first != pair.second) rows.push_back({{"key", dotted(key)}, {"a", pair.first}, {"b", pair.second}});
  return rows;
}

json compare_inputs(const std::string& a, const std::string& b) {
  std::map<std::pair<std::string, std::string>, std::pair<json, json>> all;
  const auto take = [&](const std::string& text, bool first) {
    for (const json& file : json::parse(text).value("files", json::array())) {
      const std::string role = file.value("role", "");
      // A model is several files, told apart by name; the data are one file each, whatever it is called.
      auto& pair = all[{role, role == "model" ? fs::path(file.value("path", "")).filename().string() : ""}];
      (first ? pair.first : pair.second) = file;
    }
  };
  take(a, true);
  take(b, false);
  json rows = json::array();
  for (const auto& [key, pair] : all) {
    const auto sum = [](const json& file) { return file.is_object() ? file.value("sha256", json(nullptr)) : json(nullptr); };
    if (sum(pair.first) == sum(pair.second)) continue;
    const json& known = pair.first.is_object() ? pair.first : pair.second;
    rows.push_back({{"path", known.value("path", "")}, {"role", key.first}, {"a", sum(pair.first)}, {"b", sum(pair.second)}});
  }
  return rows;
}

json difference(const Registry& registry, const RunRow& a, const RunRow& b) {
  const auto ours = registry.facts(a.number).value(), theirs = registry.facts(b.number).value();
  const std::string our_diff = text_of(fs::path(a.folder) / "dirty.diff"), their_diff = text_of(fs::path(b.folder) / "dirty.diff");
  return {{"a", side(a)},
          {"b", side(b)},
          {"config", compare_json(a.config_json, b.config_json)},
          {"code", compare_json(ours.code_json, theirs.code_json)},
          {"dirty_diff", {{"same", our_diff == their_diff},
                          {"only_a", lines_only_in(our_diff, their_diff)},
                          {"only_b", lines_only_in(their_diff, our_diff)}}},
          {"environment", compare_json(ours.environment_json, theirs.environment_json)},
          {"inputs", compare_inputs(ours.inputs_json, theirs.inputs_json)},
          {"metrics", metrics_json(compare_metrics(registry, a.number, b.number))},
          {"evaluations", compare_evaluations(registry, a.number, b.number)},
          {"records", compare_records(registry, a, b)}};
}

std::string difference_text(const json& all) {
  const auto name = [](const json& run) {
    return "run " + cell(run.at("number")) + " " + cell(run.at("series")) + "/" + cell(run.at("run")) + " s" + cell(run.at("seed"));
  };
  std::string text = name(all.at("a")) + " | " + name(all.at("b")) + "\n";
  section(text, "config", all.at("config"));
  section(text, "code", all.at("code"));
  const json& diff = all.at("dirty_diff");
  if (diff.at("same").get<bool>()) {
    text += "uncommitted changes: the same\n";
  } else {
    text += "uncommitted changes\n";
    std::size_t left_out = 0, shown = 0;
    for (const auto& [key, mark] : {std::pair("only_a", "< "), std::pair("only_b", "> ")})
      for (const json& line : diff.at(key)) {
        if (shown < 200) text += "  " + std::string(mark) + cell(line) + "\n", ++shown;
        else ++left_out;
      }
    if (left_out > 0) text += "  " + std::to_string(left_out) + " further lines; --json has them all\n";
  }
  section(text, "environment", all.at("environment"));
  section(text, "inputs", all.at("inputs"), "path");
  const json& metrics = all.at("metrics");
  text += "metrics: " + cell(metrics.at("equal")) + " of " + cell(metrics.at("compared")) + " points are the same, bit for bit";
  if (!metrics.at("parts_at").is_null()) {
    text += "; they part at step " + cell(metrics.at("parts_at"));
    text += ", and the largest relative difference is " + cell(metrics.at("largest")) + " (" + cell(metrics.at("largest_key")) + ", step " +
            cell(metrics.at("largest_step")) + ")\n";
    for (const json& pair : metrics.at("there")) text += "  " + cell(pair.at("key")) + ": " + cell(pair.at("a")) + " | " + cell(pair.at("b")) + "\n";
  } else {
    text += " (timing_s/* and perf/* are not compared)\n";
  }
  text += all.at("evaluations").empty() ? "evaluations: the same\n" : "evaluations\n";
  for (const json& row : all.at("evaluations")) {
    text += "  step " + cell(row.at("step")) + ": " + cell(row.at("a")) + " | " + cell(row.at("b"));
    if (row.at("problems").is_null()) text += " right, on different problems";
    else text += " of " + cell(row.at("problems")) + " right";
    if (!row.at("different").is_null()) text += ", " + cell(row.at("different")) + " problems with another outcome";
    text += "\n";
  }
  text += all.at("records").empty() ? "records: the same\n" : "records\n";
  for (const json& row : all.at("records"))
    text += "  " + cell(row.at("kind")) + (row.at("subject") == "" ? "" : " " + cell(row.at("subject"))) + ": " + cell(row.at("a")) + " | " +
            cell(row.at("b")) + "\n";
  return text;
}

json compare_files(const fs::path& a, const fs::path& b) {
  std::set<std::string> names;
  for (const fs::path& folder : {a, b})
    for (const char* inside : {"samples", "eval", "adapter"}) {
      std::error_code none;
      for (const auto& entry : fs::directory_iterator(folder / inside, none))
        if (entry.is_regular_file()) names.insert(std::string(inside) + "/" + entry.path().filename().string());
    }
  json rows = json::array();
  for (const std::string& name : names) {
    if (!fs::exists(a / name)) rows.push_back({{"file", name}, {"what", "is in the second run only"}});
    else if (!fs::exists(b / name)) rows.push_back({{"file", name}, {"what", "is in the first run only"}});
    else if (const std::string what = first_difference(a / name, b / name); !what.empty()) rows.push_back({{"file", name}, {"what", what}});
  }
  return rows;
}

}  // namespace assay::runner

#include "registry/journal.h"

#include <map>
#include <nlohmann/json.hpp>

#include "support/files.h"

namespace assay::registry {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::optional<int> optional_int(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  return found->get<int>();
}

}  // namespace

void append_state(const fs::path& folder, const StateLine& line, bool places, bool sync) {
  json object = {{"time", line.time}, {"state", name(line.state.kind)}, {"attempt", line.attempt}};
  if (line.state.exit_code) object["exit_code"] = *line.state.exit_code;
  if (line.state.signal) object["signal"] = *line.state.signal;
  if (!line.state.detail.empty()) object["detail"] = line.state.detail;
  if (!line.state.fault.empty()) object["fault"] = line.state.fault;
  if (places) {
    object["priority"] = line.priority;
    object["group"] = line.group;
    object["after"] = line.after;
    object["after_any"] = line.after_any;
  }
  if (line.held) object["held"] = *line.held;
  if (line.hidden) object["hidden"] = *line.hidden;
  if (line.not_before) object["not_before"] = *line.not_before;
  const std::string text = object.dump(-1, ' ', false, json::error_handler_t::replace);
  std::optional<support::LineWriter> writer;
  try {
    writer.emplace(folder / "states.jsonl");
  } catch (const std::runtime_error&) {
    std::error_code ignored;
    if (!fs::is_directory(folder, ignored)) return;
    throw;
  }
  writer->write(text);
  if (!sync) return;
  writer->sync();
  support::sync_folder(folder);
}

std::vector<StateLine> read_states(const fs::path& folder, int& bad) {
  std::vector<StateLine> lines;
  const fs::path file = folder / "states.jsonl";
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return lines;
  const std::string text = support::read_file(file);
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    try {
      const json object = json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                      text.begin() + static_cast<std::ptrdiff_t>(end));
      StateLine line;
      line.time = object.at("time").get<double>();
      line.attempt = object.at("attempt").get<std::int64_t>();
      const auto kind = parse_state(object.at("state").get<std::string>());
      if (!kind || line.attempt < 0) {
        ++bad;
        continue;
      }
      line.state = {*kind, optional_int(object, "exit_code"), optional_int(object, "signal"), object.value("detail", ""),
                    object.value("fault", "")};
      line.priority = object.value("priority", std::int64_t{0});
      line.after = object.value("after", std::vector<std::int64_t>{});
      line.group = object.value("group", "");
      line.after_any = object.value("after_any", std::vector<std::int64_t>{});
      line.places = object.contains("priority");
      if (object.contains("held")) line.held = object.at("held").get<bool>();
      if (object.contains("hidden")) line.hidden = object.at("hidden").get<bool>();
      if (object.contains("not_before")) line.not_before = object.at("not_before").get<double>();
      lines.push_back(std::move(line));
    } catch (const json::exception&) {
      ++bad;  // a torn line that a later one was appended to
    }
  }
  return lines;
}

std::vector<Attempt> replay_states(const std::vector<StateLine>& lines, RunRow& row) {
  std::map<std::int64_t, Attempt> attempts;
  row.created = lines.front().time;
  row.held = row.hidden = false;
  row.not_before = 0;
  for (const StateLine& line : lines) {
    row.held = line.held.value_or(row.held);
    row.hidden = line.hidden.value_or(row.hidden);
    row.not_before = line.not_before.value_or(row.not_before);
    if (!line.places && &line != &lines.front()) continue;
    row.priority = line.priority;
    row.group = line.group;
    row.after = line.after;
    row.after_any = line.after_any;
  }
  row.started = row.ended = 0;
  row.attempt = 0;
  bool waiting = true;
  for (const StateLine& line : lines) {
    const StateKind kind = line.state.kind;
    if (&line != &lines.front() && line.edit()) continue;
    const bool was_waiting = waiting;
    waiting = kind == StateKind::queued || kind == StateKind::blocked;
    row.state = line.state;
    row.attempt = line.attempt;
    if (kind == StateKind::starting) row.started = line.time;
    else if (waiting) row.started = 0;
    row.ended = is_final(kind) ? line.time : 0;
    if (kind == StateKind::starting) {
      attempts[line.attempt] = {line.attempt, line.state, line.time, 0};
    } else if (!waiting && !was_waiting) {
      const auto attempt = attempts.find(line.attempt);
      if (attempt == attempts.end()) continue;
      attempt->second.state = line.state;
      attempt->second.ended = row.ended;
    }
  }
  std::vector<Attempt> all;
  for (auto& [number, attempt] : attempts) all.push_back(std::move(attempt));
  return all;
}

}  // namespace assay::registry

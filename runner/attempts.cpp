#include "runner/attempts.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"

namespace assay::runner {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::StateKind;

void write_launch(const fs::path& folder, const LaunchRecord& record) {
  if (record == LaunchRecord{} && !fs::exists(folder / "launch.json")) return;
  const json document = {{"attempt", record.attempt}, {"gpus", record.gpus}, {"resume", record.resume}};
  support::write_file_atomically(folder / "launch.json", document.dump() + "\n");
}

LaunchRecord read_launch(const fs::path& folder) {
  const fs::path file = folder / "launch.json";
  if (!fs::exists(file)) return {};
  try {
    const json document = json::parse(support::read_file(file));
    return {document.at("attempt").get<std::int64_t>(), document.at("gpus").get<std::vector<int>>(),
            document.at("resume").get<bool>()};
  } catch (const json::exception& error) {
    throw std::runtime_error(file.string() + ": " + error.what());
  }
}

bool has_checkpoint(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder / "checkpoints", error))
    if (entry.path().filename().string().rfind("step-", 0) == 0) return true;
  return false;
}

void set_aside(const fs::path& folder, std::int64_t attempt, bool progress, int restart) {
  // exit.json last: until it has gone the folder says how the attempt ended.
  std::vector<const char*> names = {"stdout.log", "stderr.log", "kill.json", "pause.json", "launch.json", "supervisor.json"};
  if (progress)
    names.insert(names.begin(), {"metrics.jsonl", "events.jsonl", "eval", "samples", "adapter", "checkpoints",
                                 "quant-report.json"});
  names.push_back("exit.json");
  char digits[32];
  std::snprintf(digits, sizeof digits, "%04lld", static_cast<long long>(attempt));
  const fs::path aside = folder / "attempts" / (digits + (restart > 0 ? "." + std::to_string(restart) : std::string()));
  bool moved = false;
  for (const char* name : names) {
    if (!fs::exists(fs::symlink_status(folder / name))) continue;
    fs::create_directories(aside);
    fs::rename(folder / name, aside / name);
    moved = true;
  }
  if (!moved) return;
  support::sync_folder(aside);
  support::sync_folder(folder);
}

namespace {

json program(const fs::path& file, ProgramMarks* known = nullptr) {
  std::error_code error;
  struct stat status {};
  std::string stamp;
  if (known != nullptr && ::stat(file.c_str(), &status) == 0) {
    for (const auto part : {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino),
                            static_cast<std::int64_t>(status.st_size), static_cast<std::int64_t>(status.st_mtim.tv_sec),
                            static_cast<std::int64_t>(status.st_mtim.tv_nsec), static_cast<std::int64_t>(status.st_ctim.tv_sec),
                            static_cast<std::int64_t>(status.st_ctim.tv_nsec)})
      stamp += std::to_string(part) + " ";
    if (const auto found = known->find(stamp); found != known->end())
      return {{"file", file.string()}, {"bytes", static_cast<std::uintmax_t>(status.st_size)}, {"mark", found->second}};
  }
  const std::uintmax_t bytes = fs::file_size(file, error);
  if (error) return {{"file", file.string()}, {"bytes", nullptr}, {"mark", ""}};
  constexpr std::uintmax_t kHashed = 4 << 20;
  const std::string mark = bytes <= kHashed ? support::sha256_file(file)
                                            : std::to_string(fs::last_write_time(file).time_since_epoch().count());
  if (!stamp.empty() && unix_now() - static_cast<double>(std::max(status.st_mtim.tv_sec, status.st_ctim.tv_sec)) > 3) {
    struct stat after {};   // it may have been changed while it was read
    if (::stat(file.c_str(), &after) == 0 && after.st_ino == status.st_ino && after.st_size == status.st_size &&
        after.st_ctim.tv_sec == status.st_ctim.tv_sec && after.st_ctim.tv_nsec == status.st_ctim.tv_nsec) {
      if (known->size() >= 1000) known->clear();
      (*known)[stamp] = mark;
    }
  }
  return {{"file", file.string()}, {"bytes", bytes}, {"mark", mark}};
}

}  // namespace

json programs_of(const std::vector<std::string>& argv, const fs::path& folder, ProgramMarks* known) {
  json programs = json::array();
  for (std::size_t i = 0; i < argv.size(); ++i) {
    if (argv[i].empty() || argv[i].size() > 4096 || argv[i].find('{') != std::string::npos) continue;
    // A program's name without a slash is looked for in PATH, wherever it runs.
    if (i == 0 && argv[i].find('/') == std::string::npos) continue;
    std::error_code error;
    const fs::path file = (folder / argv[i]).lexically_normal();
    if (fs::is_regular_file(file, error)) programs.push_back(program(file, known));
  }
  return programs;
}

std::vector<std::string> changed_programs(const json& programs) {
  std::vector<std::string> changed;
  for (const json& before : programs)
    if (const std::string file = before.at("file").get<std::string>(); program(file) != before) changed.push_back(file);
  return changed;
}

std::string fault_of(const registry::State& state, bool command_trainer) {
  switch (state.kind) {
    case StateKind::lost: return "infrastructure";
    case StateKind::stalled: return "stalled";
    case StateKind::failed: break;
    default: return "";
  }
  if (state.signal) return *state.signal == SIGKILL || *state.signal == SIGBUS ? "infrastructure" : "code";
  if (!state.exit_code) return "infrastructure";   // it was never started: no process, no memory, no program there
  const int code = *state.exit_code;
  const bool machine = code == 128 + SIGKILL || code == 128 + SIGBUS || code == 71 || code == 74 || code == 75 ||
                       (!command_trainer && code == 1);
  return machine ? "infrastructure" : "code";
}

std::optional<double> retry_after(const json& config, const std::string& fault, std::int64_t count) {
  const json& schedule = config.at("schedule");
  if (fault.empty() || count > schedule.value("retry." + fault, std::int64_t{0})) return std::nullopt;
  const double first = schedule.value("retry.backoff", 30.0), most = schedule.value("retry.backoff_max", 3600.0);
  return std::min(most, first * std::pow(2.0, static_cast<double>(std::clamp<std::int64_t>(count - 1, 0, 60))));
}

}  // namespace assay::runner

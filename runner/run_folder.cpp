#include "runner/run_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "support/fault_point.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void fail_at(const fs::path& path) { throw std::runtime_error(path.string() + ": " + std::strerror(errno)); }

// `path` is for the error.
void fill(const fs::path& path, Fd file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_at(path);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  if (::close(file.release()) != 0 && errno != EINTR) fail_at(path);
}

// The new run folder while it is filled.
class FrozenFolder {
 public:
  explicit FrozenFolder(const fs::path& folder) : folder_(folder), fd_(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
    if (!fd_) fail("");
  }
  // Made read-only, filled and closed; the hash in config.sha256, which the supervisor checks, tells a file that a power
  // failure cut short, so no fsync is paid for here.
  void write(const std::string& name, std::string_view bytes) const { fill(folder_ / name, open(name), bytes); }
  Fd open(const std::string& name, mode_t mode = 0444) const {
    Fd file(::openat(fd_.get(), name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!file) fail(name);
    return file;
  }

 private:
  [[noreturn]] void fail(const std::string& name) const { fail_at(name.empty() ? folder_ : folder_ / name); }

  const fs::path& folder_;
  Fd fd_;
};

// All that is frozen with a run but for run.json, which is another one in each. config.sha256 is held in `sum`.
using Frozen = std::vector<std::pair<std::string_view, std::string_view>>;   // name, bytes
Frozen frozen_of(const registry::NewRun& run, const std::vector<FrozenFile>& files, std::string& sum) {
  sum = run.config_sha256 + "\n";
  Frozen all = {
      {"config.json", run.config_json}, {"config.sha256", sum},                   {"derived.json", run.derived_json},
      {"code.json", run.code_json},     {"environment.json", run.environment_json}, {"inputs.json", run.inputs_json}};
  for (const FrozenFile& file : files) all.emplace_back(file.name, file.bytes);
  return all;
}

bool are(const std::vector<FrozenFile>& files, const Frozen& frozen) {
  return std::equal(files.begin(), files.end(), frozen.begin(), frozen.end(), [](const FrozenFile& file, const auto& other) {
    return file.name == other.first && file.bytes == other.second;
  });
}

bool was_used(const fs::path& folder) {
  return fs::exists(folder / "supervisor.json") || fs::exists(folder / "exit.json") ||
         fs::exists(folder / "metrics.jsonl") || FileLock::is_held(folder / "lock");
}

std::optional<json> read_json(const fs::path& file) {
  if (!fs::exists(file)) return std::nullopt;
  try {
    return json::parse(support::read_file(file));
  } catch (const json::exception& error) {
    throw std::runtime_error(file.string() + ": " + error.what());
  }
}

json to_json(const Identity& identity) {
  return {{"boot_id", identity.boot_id}, {"pid", identity.pid}, {"start_time", identity.start_time}};
}

template <typename T>
json optional(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

std::optional<int> optional_int(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  return found->get<int>();
}

}  // namespace

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() <= 200 && name[0] != '.' && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c >= 0x20 && c != 0x7f && c != '/';
  });
}

std::string run_folder_name(std::int64_t number, const std::string& run, std::int64_t seed) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%06lld", static_cast<long long>(number));
  return std::string(digits) + "-" + run + "-s" + std::to_string(seed);
}

SpareFolder::SpareFolder(fs::path folder) : folder_(std::move(folder)) { take_away(); }

void SpareFolder::take_away() {
  held_.clear();
  run_json_.reset();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void SpareFolder::prepare(const registry::NewRun& run, const std::vector<FrozenFile>& files) {
  if (in_vain_) return;
  std::string sum;
  const auto frozen = frozen_of(run, files, sum);
  if (are(held_, frozen)) return;
  try {
    take_away();
    if (::mkdir(folder_.c_str(), 0777) != 0) return;
    const FrozenFolder folder(folder_);
    for (const auto& [name, bytes] : frozen) folder.write(std::string(name), bytes);
    run_json_ = folder.open("run.json");
    folder.open("states.jsonl", 0644);   // whose first line the registry writes
    for (const auto& [name, bytes] : frozen) held_.push_back({std::string(name), std::string(bytes)});
  } catch (const std::exception&) {   // a full disk: the run's own folder says so
    take_away();
  }
}

Fd SpareFolder::become(const fs::path& folder, const registry::NewRun& run, const std::vector<FrozenFile>& files) {
  if (held_.empty()) return Fd();
  std::string sum;
  const auto frozen = frozen_of(run, files, sum);
  if (!are(held_, frozen)) return Fd();
  if (::renameat2(AT_FDCWD, folder_.c_str(), AT_FDCWD, folder.c_str(), RENAME_NOREPLACE) != 0) {
    in_vain_ = errno == EXDEV || errno == EINVAL || errno == ENOSYS;   // runs on another disk; no such rename here
    take_away();
    return Fd();
  }
  held_.clear();
  return std::move(run_json_);
}

fs::path create_run_folder(const fs::path& runs, std::int64_t number, const registry::NewRun& run,
                           const std::vector<FrozenFile>& files, SpareFolder* spare) {
  const auto check = [](const std::string& name) {
    if (!is_plain_name(name))
      throw std::invalid_argument("'" + name.substr(0, 80) + "' cannot be the name of a folder or file; use letters, digits, "
                                                             "dots, dashes and underscores");
  };
  check(run.series);
  check(run.run);
  for (const FrozenFile& file : files) check(file.name);
  const fs::path folder = runs / run.series / run_folder_name(number, run.run, run.seed);
  Fd filled = spare != nullptr ? spare->become(folder, run, files) : Fd();
  if (!filled && ::mkdir(folder.c_str(), 0777) != 0) {   // nearly always all that it takes
    fs::create_directories(folder.parent_path());
    if (fs::exists(folder)) {
      if (was_used(folder))
        throw std::runtime_error(folder.string() + ": is there already though the registry gives its number out now; "
                                                   "the registry is not the one that goes with these run folders");
      fs::remove_all(folder);
    }
    if (!fs::create_directory(folder)) throw std::runtime_error(folder.string() + ": cannot be made");
  }
  try {
    json document = json::parse(run.run_json);
    document["number"] = number;
    const std::string text = document.dump(2) + "\n";
    if (filled) {
      fill(folder / "run.json", std::move(filled), text);
      support::fault_point("submit: folder half filled");
      return folder;
    }
    const FrozenFolder frozen(folder);
    frozen.write("run.json", text);
    support::fault_point("submit: folder half filled");
    std::string sum;
    for (const auto& [name, bytes] : frozen_of(run, files, sum)) frozen.write(std::string(name), bytes);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
  return folder;
}

void write_exit(const fs::path& folder, const ExitRecord& record) {
  const json document = {{"kind", record.kind},       {"code", optional(record.code)}, {"signal", optional(record.signal)},
                         {"by", record.by},           {"started", record.started},     {"ended", record.ended},
                         {"last_error", record.last_error}};
  support::write_file_atomically(folder / "exit.json",
                                 document.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

std::optional<ExitRecord> read_exit(const fs::path& folder) {
  const auto document = read_json(folder / "exit.json");
  if (!document) return std::nullopt;
  try {
    ExitRecord record;
    record.kind = document->at("kind").get<std::string>();
    record.code = optional_int(*document, "code");
    record.signal = optional_int(*document, "signal");
    record.by = document->value("by", "");
    record.last_error = document->value("last_error", "");
    record.started = document->value("started", 0.0);
    record.ended = document->value("ended", 0.0);
    return record;
  } catch (const json::exception& error) {
    throw std::runtime_error((folder / "exit.json").string() + ": " + error.what());
  }
}

void write_supervisor(const fs::path& folder, const SupervisorRecord& record) {
  json document = to_json(record.supervisor);
  document["trainer_pid"] = record.trainer.pid;
  document["trainer_start_time"] = record.trainer.start_time;
  document["isolation"] = record.isolation;
  std::string text = document.dump(2, ' ', false, json::error_handler_t::replace);
  // Both times the same length, and within one sector, so that the second neither grows the file nor is cut by a power
  // failure. A new file in the old one's place would also free an inode, and ext4 without a journal steps over all that
  // were freed of late for each file it makes: a fifth of what an empty job cost.
  constexpr std::size_t kLength = 480;
  const bool fits = text.size() < kLength;
  if (fits) text.resize(kLength - 1, ' ');
  text += '\n';
  if (record.trainer.pid != 0 && fits) {
    const Fd file(::open((folder / "supervisor.json").c_str(), O_WRONLY | O_CLOEXEC));
    struct stat status {};
    if (file && ::fstat(file.get(), &status) == 0 && status.st_size == static_cast<off_t>(kLength) &&
        ::pwrite(file.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()))
      return;
  }
  support::write_file_atomically(folder / "supervisor.json", text);
}

std::optional<SupervisorRecord> read_supervisor(const fs::path& folder) {
  const auto document = read_json(folder / "supervisor.json");
  if (!document) return std::nullopt;
  try {
    SupervisorRecord record;
    record.supervisor = {document->at("boot_id").get<std::string>(), document->at("pid").get<pid_t>(),
                         document->at("start_time").get<std::uint64_t>()};
    record.trainer = {record.supervisor.boot_id, document->at("trainer_pid").get<pid_t>(),
                      document->at("trainer_start_time").get<std::uint64_t>()};
    record.isolation = document->value("isolation", "");
    return record;
  } catch (const json::exception& error) {
    throw std::runtime_error((folder / "supervisor.json").string() + ": " + error.what());
  }
}

void write_kill(const fs::path& folder, const KillRequest& request) {
  const json document = {{"by", request.by}, {"grace", request.grace}};
  support::write_file_atomically(folder / "kill.json", document.dump() + "\n");
}

std::optional<KillRequest> read_kill(const fs::path& folder) {
  const auto document = read_json(folder / "kill.json");
  if (!document) return std::nullopt;
  return KillRequest{document->value("by", ""), document->value("grace", 10.0)};
}

Condition inspect(const fs::path& folder) {
  // Life first, the record second: a supervisor that ends in between has written its record before.
  const auto supervisor = read_supervisor(folder);
  const bool alive = supervisor && open_process(supervisor->supervisor);
  if (fs::exists(folder / "exit.json")) return Condition::ended;
  if (alive) return Condition::alive;
  if (supervisor) return Condition::lost;
  if (FileLock::is_held(folder / "lock")) return Condition::coming_up;
  // It may have said who it is, or even ended, since we looked.
  if (fs::exists(folder / "exit.json")) return Condition::ended;
  return fs::exists(folder / "supervisor.json") ? Condition::coming_up : Condition::never_started;
}

std::string lost_reason(const fs::path& folder) {
  const auto supervisor = read_supervisor(folder);
  return supervisor && supervisor->supervisor.boot_id != boot_id() ? "the machine was started anew while it ran"
                                                                   : "its supervisor ended without a record";
}

registry::State final_state(const ExitRecord& record, bool finished, bool command_trainer) {
  using registry::StateKind;
  registry::State state;
  state.exit_code = record.code;
  state.signal = record.signal;
  state.detail = record.last_error;
  if (record.kind == "killed") {
    state.kind = StateKind::killed;
    state.detail = record.by;
  } else if (record.kind == "timed_out") {
    state.kind = StateKind::killed;
    state.detail = record.by;
  } else if (record.kind == "stalled") {
    state.kind = StateKind::stalled;
    state.detail = record.by;
  } else if (record.kind == "exited" && record.code == 0 && finished) {
    state.kind = StateKind::succeeded;
    state.detail.clear();
  } else {
    state.kind = StateKind::failed;
    if (record.kind == "exited" && record.code == 0)
      state.detail = command_trainer ? "it ended with code 0 but wrote no line to metrics.jsonl"
                                     : "it ended with code 0 but never reported that it had finished";
  }
  return state;
}

std::string last_line(const fs::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return "";
  constexpr std::streamoff kTail = 64 << 10;
  const std::streamoff size = in.tellg();
  in.seekg(std::max<std::streamoff>(0, size - kTail));
  std::string best, line;
  while (std::getline(in, line)) {
    std::string clean;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] == '\x1b' && i + 1 < line.size() && line[i + 1] == '[') {
        i += 2;
        while (i < line.size() && (line[i] < '@' || line[i] > '~')) ++i;
      } else if (static_cast<unsigned char>(line[i]) >= 0x20 && line[i] != 0x7f) {
        clean += line[i];
      }
    }
    if (clean.find_first_not_of(' ') != std::string::npos) best = std::move(clean);
  }
  if (best.size() > 500) best.resize(500);
  return best;
}

}  // namespace assay::runner

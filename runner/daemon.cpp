#include "runner/daemon.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "registry/build.h"
#include "registry/registry.h"
#include "runner/care.h"
#include "runner/errors.h"
#include "runner/fleet.h"
#include "runner/front/answer.h"
#include "runner/front/keeper.h"
#include "runner/kept_submissions.h"
#include "runner/process.h"
#include "runner/protocol.h"
#include "runner/records.h"
#include "runner/resources.h"
#include "runner/server.h"
#include "runner/view.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

FileLock take_lock(const Paths& paths) {
  for (int attempt = 0;; ++attempt) {
    std::optional<FileLock> lock;
    try {
      lock = FileLock::try_take(paths.lock());
    } catch (const std::runtime_error& error) {
      throw UserError(kFault, std::string(error.what()) + "; make it writable, or set ASSAY_HOME to a folder that is");
    }
    if (lock) return std::move(*lock);
    if (attempt < 10) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // one that is just going
      continue;
    }
    const auto other = read_daemon_record(paths);
    throw UserError(kDaemon, "daemon: another one" + (other ? " (pid " + std::to_string(other->process.pid) + ")" : "") +
                                 " already runs on " + paths.data.string() +
                                 "; type `assay daemon status` to see it, `assay daemon stop` to end it");
  }
}

void write_record(const FileLock& lock, const Paths& paths) {
  const Identity self = identify(::getpid()).value();
  const std::string text = json{{"pid", self.pid}, {"start_time", self.start_time}, {"boot_id", self.boot_id},
                                {"socket", paths.socket.string()}, {"log", paths.log().string()}}
                               .dump() + "\n";
  if (::ftruncate(lock.fd(), 0) != 0 || ::pwrite(lock.fd(), text.data(), text.size(), 0) < 0)
    throw std::runtime_error(paths.lock().string() + ": " + std::strerror(errno));
}

std::shared_ptr<spdlog::logger> open_log(const Paths& paths, bool foreground) {
  std::vector<spdlog::sink_ptr> sinks;
  try {
    sinks.push_back(std::make_shared<spdlog::sinks::rotating_file_sink_mt>(paths.log().string(), 5 << 20, 3));
  } catch (const spdlog::spdlog_ex& error) {
    throw UserError(kFault, paths.log().string() + ": the log cannot be written (" + error.what() +
                                "); make its folder writable");
  }
  if (foreground) sinks.push_back(std::make_shared<spdlog::sinks::stderr_sink_mt>());
  auto log = std::make_shared<spdlog::logger>("daemon", sinks.begin(), sinks.end());
  log->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  log->flush_on(spdlog::level::info);
  return log;
}

constexpr auto kLookAtLock = std::chrono::seconds(2);
constexpr auto kAnswerTaken = std::chrono::microseconds(300);   // in which whoever waits for an answer has woken up and read it

// Is the file that is locked still the one that the next daemon would lock? Not once somebody has deleted the data folder,
// or moved it, or put another one there.
bool guards(const FileLock& lock, const fs::path& file) {
  struct stat ours {}, there {};
  if (::fstat(lock.fd(), &ours) != 0) return true;
  if (::stat(file.c_str(), &there) != 0) return errno != ENOENT && errno != ENOTDIR;
  return ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

// What somebody calls himself goes into the log, the record and onto screens.
std::string one_line(std::string text) {
  if (text.size() > 200) text.resize(200);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

class Daemon {
 public:
  Daemon(const Paths& paths, const FileLock& lock, Resources resources, registry::Registry& registry,
         std::shared_ptr<spdlog::logger> log, int log_fd)
      : paths_(paths), lock_(lock), registry_(registry), log_(std::move(log)),
        fleet_(io_, registry, paths, std::move(resources), log_fd, log_, [this](std::int64_t run) { changed(run); }),
        signals_(io_, SIGTERM, SIGINT), lock_timer_(io_), expect_timer_(io_), warm_(io_, log_fd, log_) {}

  // `ready`: it listens, and answers; `restored`: what ran while there was no daemon is in the registry.
  void run(const std::function<void()>& ready, const std::function<void()>& restored) {
    started_ = unix_now();
    signals_.async_wait([this](const asio::error_code& error, int signal) {
      if (error) return;
      log_->info("ends on {}; runs go on", signal == SIGTERM ? "SIGTERM" : "SIGINT");
      io_.stop();
    });
    server_ = std::make_unique<Server>(io_, paths_.socket, [this](const json& request, const Fd& passed) { return answer(request, passed); });
    look_at_lock();
    fleet_.restore(restored);
    log_->info("daemon {} listens at {} with {} slots", ::getpid(), paths_.socket.string(),
               fleet_.queue().machine.cores);
    ready();
    for (;;) {
      try {
        io_.run();
        break;
      } catch (const std::exception& fault) {
        log_->error("{}", fault.what());  // what no one run can be blamed for; the loop goes on
      }
    }
    server_.reset();
    if (guards(lock_, paths_.lock())) ::unlink(paths_.socket.c_str());   // else another daemon may listen there by now
  }

 private:
  // A daemon of a folder that is gone would live for ever: nobody finds it to stop it.
  void look_at_lock() {
    if (!guards(lock_, paths_.lock())) {
      log_->warn("{} has been deleted or replaced: this daemon ends; runs go on", paths_.lock().string());
      io_.stop();
      return;
    }
    lock_timer_.expires_after(kLookAtLock);
    lock_timer_.async_wait([this](const asio::error_code& error) {
      if (!error) look_at_lock();
    });
  }

  void changed(std::int64_t run) {
    if (server_) server_->changed(run);
  }

  // The front (front/front.cpp) is answered where the warm process has handed its connection on.
  json answer(const json& request, const Fd& connection) {
    const json reply = answer(request);
    if (!connection || !request.contains("kept")) return reply;
    if (!reply.contains("numbers")) {   // refused, or not kept any more: assay-cli does it, and says what is wrong
      front::answer_step_aside(connection.get(), MSG_DONTWAIT);
      return {{"stepped_aside", request.at("kept")}};
    }
    std::vector<std::string> labels;
    for (const auto& [run, doctor] : kept_.find(request.at("kept").get<std::int64_t>())->runs) labels.push_back(label(run.run, run.seed));
    front::answer_done(connection.get(), kOk,
                       added(request.at("front") == "json", reply.at("numbers").get<std::vector<std::int64_t>>(), labels), "", MSG_DONTWAIT);
    ::sched_yield();   // the front goes first, where both are on one processor
    return nullptr;
  }

  json answer(const json& request) {
    try {
      const std::string op = request.at("op").get<std::string>();
      if (op == "status") {
        json waits = json::object();
        for (const auto& [number, text] : fleet_.waits()) waits[std::to_string(number)] = text;
        json places = json::object();
        for (const auto& [number, text] : fleet_.places()) places[std::to_string(number)] = text;
        const Queue& queue = fleet_.queue();
        json groups = json::object();
        for (const auto& [name, limit] : queue.limits) groups[name] = {{"limit", limit}, {"running", 0}};
        for (const auto& [name, running] : queue.group_active) {
          if (!groups.contains(name)) groups[name] = {{"limit", nullptr}};
          groups[name]["running"] = running;
        }
        json reply = {{"ok", true},
                {"pid", ::getpid()},
                {"slots", queue.machine.cores},
                {"used", queue.cores_used},
                {"memory", queue.machine.memory},
                {"memory_used", queue.memory_used},
                {"gpus", queue.machine.gpus},
                {"gpus_used", queue.gpus_used},
                {"groups", groups},
                {"closed", queue.closed},
                {"active", fleet_.active()},
                {"restoring", fleet_.restoring()},
                {"waits", waits},
                {"places", places},
                {"started", started_},
                {"data", paths_.data.string()},
                {"log", paths_.log().string()}};
        if (request.value("details", false)) add_details(reply);
        return reply;
      }
      if (op == "submit") {
        if (request.contains("kept")) {
          const std::int64_t number = request.at("kept").get<std::int64_t>();
          const Submission* kept = kept_.again(number, request.at("batch").get<std::string>(),
                                               request.at("created").get<std::string>());
          if (kept == nullptr) return {{"ok", true}};
          json reply = {{"ok", true}, {"numbers", fleet_.submit(*kept)}};
          asio::post(io_, [this, number] { expect(number); });   // whoever asked has his answer before
          return reply;
        }
        const Submission submission = submission_from_json(request);
        json reply = {{"ok", true}, {"numbers", fleet_.submit(submission)}};
        asio::post(io_, [this] { warm_.wanted(); });   // as above
        if (request.value("keep", false))
          if (const std::int64_t number = kept_.keep(submission); number != 0) reply["kept"] = number;
        return reply;
      }
      if (op == "kill") {
        fleet_.kill(request.at("numbers").get<std::vector<std::int64_t>>(),
                    {one_line(request.at("by").get<std::string>()), request.at("grace").get<double>()});
        return {{"ok", true}};
      }
      if (op == "record") {
        std::vector<registry::Record> records;
        for (const json& record : request.at("records")) records.push_back(record_from_json(record));
        json written = json::array();
        for (const registry::Record& record : append_records(paths_, registry_, std::move(records))) {
          written.push_back(to_json(record));
          if (record.run != 0) changed(record.run);
        }
        return {{"ok", true}, {"records", written}};
      }
      const auto numbers = [&] { return request.at("numbers").get<std::vector<std::int64_t>>(); };
      if (op == "pause") {
        fleet_.pause(numbers(), request.at("checkpoint").get<bool>(), one_line(request.at("by").get<std::string>()));
        return {{"ok", true}};
      }
      if (op == "resume") {
        fleet_.resume(numbers());
        return {{"ok", true}};
      }
      if (op == "restart") {
        fleet_.restart(numbers(), request.at("fresh").get<bool>());
        return {{"ok", true}};
      }
      if (op == "clean") return {{"ok", true}, {"freed", fleet_.clean(numbers(), request.at("checkpoints").get<bool>())}};
      if (op == "edit") {
        fleet_.edit(edit_from_json(request));
        return {{"ok", true}};
      }
      if (op == "group") {
        const json& limit = request.at("limit");
        fleet_.set_group(request.at("name").get<std::string>(),
                         limit.is_null() ? std::nullopt : std::optional(limit.get<int>()));
        return {{"ok", true}};
      }
      if (op == "stop") {
        const auto stop = [this] { io_.stop(); };
        if (request.value("kill", false)) {
          log_->info("is asked to end all runs and to stop");
          const KillRequest kill{one_line(request.value("by", "`assay daemon stop --kill`")), request.value("grace", 10.0)};
          fleet_.drain(kill, stop);
        } else {
          log_->info("is asked to stop; runs go on");
          asio::post(io_, stop);  // the reply is written at once, before that
        }
        return {{"ok", true}};
      }
      return failure("daemon: it does not know the request '" + op + "'", kUsage);
    } catch (const json::exception& error) {
      return failure(std::string("daemon: the request is not what it expects: ") + error.what(), kUsage);
    } catch (const std::invalid_argument& error) {
      return failure(error.what(), kRefused);
    } catch (const fs::filesystem_error& error) {
      log_->error("{}", error.what());
      return failure(error.path1().string() + ": " + error.code().message() + "; nothing was changed", kFault);
    } catch (const std::exception& error) {
      log_->error("{}", error.what());
      return failure(std::string(error.what()) + "; nothing was changed", kFault);
    }
  }

  // A kept submission is likely to come again. Not at once: whoever has the answer is likely to go on on this processor.
  void expect(std::int64_t number) {
    expect_timer_.expires_after(kAnswerTaken);
    expect_timer_.async_wait([this, number](const asio::error_code& error) {
      if (const Submission* again = error ? nullptr : kept_.find(number)) fleet_.expect(*again);
    });
  }

  // What only `assay daemon status` asks for.
  void add_details(json& reply) const {
    reply["commit"] = registry::build_facts().commit;
    reply["protocol"] = kProtocol;
    reply["submitted_again"] = kept_.times();   // adds whose submission it had already
    reply["socket"] = paths_.socket.string();
    std::error_code error;
    const fs::path program = fs::read_symlink("/proc/self/exe", error);
    reply["program"] = program.string();
    struct stat running {}, now {};
    reply["program_replaced"] = ::stat("/proc/self/exe", &running) != 0 || ::stat(program.c_str(), &now) != 0 ||
                                running.st_ino != now.st_ino || running.st_dev != now.st_dev;
    std::uintmax_t bytes = 0;
    for (const char* suffix : {"", "-wal"})
      if (const auto size = fs::file_size(paths_.registry().string() + suffix, error); !error) bytes += size;
    reply["registry_bytes"] = bytes;
    if (const auto space = fs::space(paths_.data, error); !error) reply["disk_free_bytes"] = space.available;
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    reply["cpu_seconds"] = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                           static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    std::ifstream memory("/proc/self/statm");
    std::int64_t pages = 0, resident = 0;
    memory >> pages >> resident;
    reply["memory_bytes"] = resident * ::sysconf(_SC_PAGESIZE);
  }

  Paths paths_;
  const FileLock& lock_;
  registry::Registry& registry_;
  asio::io_context io_;
  std::shared_ptr<spdlog::logger> log_;
  Fleet fleet_;
  asio::signal_set signals_;
  asio::steady_timer lock_timer_, expect_timer_;
  WarmKeeper warm_;
  KeptSubmissions kept_;
  std::unique_ptr<Server> server_;
  double started_ = 0;
};

}  // namespace

std::optional<DaemonRecord> read_daemon_record(const Paths& paths) {
  std::error_code error;
  if (!fs::exists(paths.lock(), error)) return std::nullopt;
  const json record = json::parse(support::read_file(paths.lock()), nullptr, false);
  if (!record.is_object()) return std::nullopt;  // not written yet
  return DaemonRecord{{record.value("boot_id", ""), record.value("pid", 0), record.value("start_time", std::uint64_t{0})},
                      record.value("socket", ""), record.value("log", "")};
}

std::string systemd_unit(const Paths& paths) {
  const auto quoted = [](const std::string& text) {  // systemd.syntax(7), systemd.service(5): its own escapes
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      if (c == '%' || c == '$') out += c;
      out += c;
    }
    return out + '"';
  };
  std::error_code error;
  fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (program.filename() == "assay-cli") program.replace_filename("assay");   // the name that people know
  std::string unit =
      "[Unit]\n"
      "Description=assay: queue and records of training runs\n"
      "Documentation=man:assay(1)\n"
      "\n"
      "[Service]\n"
      "Type=exec\n"
      "ExecStart=" + quoted(program.string()) + " daemon\n";
  for (const char* name : {"ASSAY_HOME", "ASSAY_SLOTS", "ASSAY_EXPERIMENTS", "ASSAY_TRAIN", "XDG_DATA_HOME", "XDG_STATE_HOME"})
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') {
      std::string entry = quoted(std::string(name) + "=" + value);
      for (std::size_t at = 0; (at = entry.find("$$", at)) != std::string::npos; ++at) entry.erase(at, 1);  // no $ there
      unit += "Environment=" + entry + "\n";
    }
  unit += "# A stop ends the daemon alone: runs go on under their supervisors, and the next start takes them up.\n"
          "KillMode=process\n"
          "# A trainer that the kernel kills for want of memory is one failed run, not the end of the unit.\n"
          "OOMPolicy=continue\n"
          "TasksMax=infinity\n"
          "Restart=on-failure\n"
          "# 7: another daemon has the data folder.\n"
          "RestartPreventExitStatus=2 7\n"
          "\n"
          "[Install]\n"
          "WantedBy=default.target\n";
  static_cast<void>(paths);
  return unit;
}

void run_daemon(const Paths& paths, const DaemonOptions& options) {
  Resources resources = resources_of(options);
  ::signal(SIGPIPE, SIG_IGN);
  // What a request needed is kept for the next one: given back each time, its pages cost more than the request.
  ::mallopt(M_TRIM_THRESHOLD, 1 << 20);
  for (const fs::path& folder : {paths.data, paths.state, paths.runs(), paths.series()}) make_folder(folder);
  make_folder(paths.socket.parent_path());
  const FileLock lock = take_lock(paths);
  write_record(lock, paths);

  auto log = open_log(paths, options.report < 0);
  // Supervisors get it as stderr; it is appended to, whoever writes.
  const Fd log_fd(::open(paths.log().c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (options.report >= 0) ::dup2(log_fd.get(), STDERR_FILENO);  // what an assertion says must not get lost
  std::optional<registry::Registry> registry;
  refuse_to_forget(paths);
  try {
    registry.emplace(registry::Registry::open(paths.registry(), registry::Registry::Access::read_write));
  } catch (const std::runtime_error& error) {
    log->error("{}", error.what());
    throw UserError(kFault, error.what());
  }
  if (options.report >= 0) ::fcntl(options.report, F_SETFD, FD_CLOEXEC);
  const auto tell = [&](const std::string& line) {
    if (options.report >= 0) [[maybe_unused]] const auto n = ::write(options.report, (line + "\n").data(), line.size() + 1);
  };
  registry->lay_out_log();
  catch_up(paths, *registry, [&](const std::string& how_far) { tell("wait " + how_far); });
  Daemon daemon(paths, lock, std::move(resources), *registry, log, log_fd.get());
  Fd report(options.report);   // open until here: whoever started this is still told of a failure
  daemon.run([&] { tell("ready"); },
             [&] {
               tell("restored");
               report.reset();
             });
}

}  // namespace assay::runner

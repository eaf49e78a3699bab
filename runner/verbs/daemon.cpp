#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "runner/client.h"
#include "runner/daemon.h"
#include "runner/errors.h"
#include "runner/process.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"
#include "support/files.h"

namespace assay::runner {
namespace {

int daemon_status(bool json) {
  const Paths paths = user_paths();
  auto client = Client::connect_to_running(paths);
  if (!client) {
    if (json) std::printf("{\"running\":false}\n");
    else std::printf("no daemon runs on %s; any command that needs one starts it\n", paths.data.c_str());
    return kOk;
  }
  nlohmann::json status = client->request("status", {{"details", true}});
  if (json) {
    status.erase("ok");
    status["running"] = true;
    std::printf("%s\n", dump(status).c_str());
    return kOk;
  }
  const std::size_t gpus = status.at("gpus").size();
  std::string rest;
  if (gpus > 0)
    rest += std::to_string(status.at("gpus_used").size()) + " of " + std::to_string(gpus) + " GPUs in use\n";
  for (const auto& [name, group] : status.at("groups").items())
    rest += "group " + name + ": " + group.at("running").dump() + " running" +
            (group.at("limit").is_null() ? "" : ", at most " + group.at("limit").dump()) + "\n";
  if (const std::string closed = status.at("closed").get<std::string>(); !closed.empty())
    rest += "nothing starts on this machine: " + closed + "\n";
  if (const auto left = status.value("restoring", std::size_t{0}); left > 0)
    rest += "what " + std::to_string(left) + " runs wrote while there was no daemon is still being read\n";
  const auto text = [&](const char* key) { return status.at(key).get<std::string>(); };
  const auto mebibytes = [&](const char* key) { return status.value(key, 0.0) / (1 << 20); };
  std::printf("pid %d, for %s, on %s\n", status.at("pid").get<int>(),
              duration(unix_now() - status.at("started").get<double>()).c_str(), text("data").c_str());
  std::printf("%d of %d slots in use, %zu runs started, %zu wait\n", status.at("used").get<int>(),
              status.at("slots").get<int>(), status.at("active").get<std::size_t>(), status.at("waits").size());
  std::fputs(rest.c_str(), stdout);
  std::printf("memory %.1f MiB, processor %.1f s, registry %.1f MiB, disk %.0f MiB free\n", mebibytes("memory_bytes"),
              status.value("cpu_seconds", 0.0), mebibytes("registry_bytes"), mebibytes("disk_free_bytes"));
  std::printf("program %s, commit %s\n", text("program").c_str(), text("commit").c_str());
  if (status.value("program_replaced", false))
    std::printf("the program's file has been replaced since; type `assay daemon restart`, runs go on meanwhile\n");
  std::printf("socket %s\nlog %s\n", text("socket").c_str(), text("log").c_str());
  return kOk;
}

// Waits until it is gone: whoever starts one next must find the lock free.
bool stop_running(const Paths& paths, const std::optional<double>& kill_grace) {
  auto client = Client::connect_to_running(paths);
  if (!client) return false;
  const auto record = read_daemon_record(paths);
  nlohmann::json arguments = nlohmann::json::object();
  if (kill_grace) arguments = {{"kill", true}, {"grace", *kill_grace}, {"by", "`assay daemon stop --kill`"}};
  client->request("stop", arguments);
  while (record && open_process(record->process)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return true;
}

int daemon_stop(bool json, const std::optional<double>& kill_grace) {
  const bool stopped = stop_running(user_paths(), kill_grace);
  if (json) std::printf("{\"stopped\":%s}\n", stopped ? "true" : "false");
  else if (!stopped) std::printf("no daemon runs\n");
  else if (kill_grace) std::printf("stopped, and all that ran is ended; what waits goes on waiting\n");
  else std::printf("stopped; runs go on, and the next command takes them up\n");
  return kOk;
}

int daemon_restart(bool json) {
  const Paths paths = user_paths();
  const bool stopped = stop_running(paths, std::nullopt);
  Client client = Client::connect(paths);
  const int pid = client.request("status").at("pid").get<int>();
  if (json) std::printf("{\"stopped\":%s,\"pid\":%d}\n", stopped ? "true" : "false", pid);
  else std::printf("%s daemon %d runs; it has taken up the runs\n", stopped ? "stopped, and" : "none ran;", pid);
  return kOk;
}

int daemon_unit(bool install) {
  const std::string text = systemd_unit(user_paths());
  if (!install) {
    std::fputs(text.c_str(), stdout);
    return kOk;
  }
  const char* config = std::getenv("XDG_CONFIG_HOME");
  const char* home = std::getenv("HOME");
  if ((config == nullptr || *config != '/') && (home == nullptr || *home != '/'))
    throw UserError(kFault, "environment: HOME is not set, so there is no place for the unit; set HOME, or type `assay "
                            "daemon unit > FILE`");
  const std::filesystem::path folder =
      (config != nullptr && *config == '/' ? std::filesystem::path(config) : std::filesystem::path(home) / ".config") /
      "systemd" / "user";
  make_folder(folder);
  support::write_file_atomically(folder / "assay.service", text);
  std::printf("%s is written; type `systemctl --user daemon-reload && systemctl --user enable --now assay`\n",
              (folder / "assay.service").c_str());
  return kOk;
}

}  // namespace

std::function<int()> setup_daemon(CLI::App& app) {
  struct Options {
    DaemonOptions daemon;
    bool json = false, kill = false, install = false;
    double grace = 10;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("--slots", options->daemon.slots, "cores to use; else $ASSAY_SLOTS, or all the machine has")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--memory", options->daemon.memory, "MiB that runs may be given; else $ASSAY_MEMORY, or all there is")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  app.add_option("--gpus", options->daemon.gpus, "indices of the GPUs that runs may be given, 0,1 or none; else $ASSAY_GPUS, "
                                                 "or all there are");
  app.add_option("--disk-reserve", options->daemon.disk_reserve,
                 "GiB of the data folder's disk to keep free: nothing starts with less; else $ASSAY_DISK_RESERVE, or 1")
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--report", options->daemon.report)->group("");
  auto* status = app.add_subcommand("status", "is one running, and what does it do");
  auto* stop = app.add_subcommand("stop", "end it; runs go on");
  add_json_flag(*status, options->json);
  add_json_flag(*stop, options->json);
  auto* kill = stop->add_flag("--kill", options->kill, "end the runs too; those that wait go on waiting");
  stop->add_option("--grace", options->grace, "seconds between SIGTERM and SIGKILL; 10 if not given")
      ->check(CLI::Range(0.0, 86400.0))
      ->needs(kill);
  auto* restart = app.add_subcommand("restart", "end it and start this program's: after an upgrade; runs go on");
  add_json_flag(*restart, options->json);
  auto* unit = app.add_subcommand("unit", "print a systemd user unit");
  unit->add_flag("--install", options->install, "write it to the user's systemd folder instead");
  app.require_subcommand(0, 1);
  return [options, status, stop, restart, unit]() -> int {
    if (status->parsed()) return daemon_status(options->json);
    if (stop->parsed()) return daemon_stop(options->json, options->kill ? std::optional(options->grace) : std::nullopt);
    if (restart->parsed()) return daemon_restart(options->json);
    if (unit->parsed()) return daemon_unit(options->install);
    const int report = options->daemon.report;
    if (report < 0) {
      run_daemon(user_paths(), options->daemon);
      return kOk;
    }
    // Started by a command that waits for what we say.
    const auto tell = [&](int code, const std::string& sentence) {
      const std::string line = "error " + std::to_string(code) + " " + sentence + "\n";
      [[maybe_unused]] const auto n = ::write(report, line.data(), line.size());
      return code;
    };
    try {
      run_daemon(user_paths(), options->daemon);
      return kOk;
    } catch (const UserError& error) {
      return tell(error.code(), error.what());
    } catch (const std::exception& error) {
      return tell(kFault, std::string("daemon: ") + error.what());
    }
  };
}

}  // namespace assay::runner

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "runner/client.h"
#include "runner/daemon.h"
#include "runner/errors.h"
#include "runner/process.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"

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
  nlohmann::json status = client->request("status");
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
  std::printf("pid %d, for %s, on %s\n%d of %d slots in use, %zu runs wait\n%slog %s\n", status.at("pid").get<int>(),
              duration(unix_now() - status.at("started").get<double>()).c_str(),
              status.at("data").get<std::string>().c_str(), status.at("used").get<int>(),
              status.at("slots").get<int>(), status.at("waits").size(), rest.c_str(), status.at("log").get<std::string>().c_str());
  return kOk;
}

int daemon_stop(bool json) {
  const Paths paths = user_paths();
  auto client = Client::connect_to_running(paths);
  if (!client) {
    std::printf(json ? "{\"stopped\":false}\n" : "no daemon runs\n");
    return kOk;
  }
  const auto record = read_daemon_record(paths);
  const auto identity = record ? identify(record->pid) : std::nullopt;
  client->request("stop");
  // Gone means gone: whoever starts one next must find the lock free.
  while (identity && open_process(*identity)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::printf(json ? "{\"stopped\":true}\n" : "stopped; runs go on, and the next command takes them up\n");
  return kOk;
}

}  // namespace

std::function<int()> setup_daemon(CLI::App& app) {
  struct Options {
    DaemonOptions daemon;
    bool json = false;
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
  app.require_subcommand(0, 1);
  return [options, status, stop]() -> int {
    if (status->parsed()) return daemon_status(options->json);
    if (stop->parsed()) return daemon_stop(options->json);
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

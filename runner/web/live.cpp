#include "runner/web/live.h"

#include "runner/client.h"
#include "runner/errors.h"
#include "runner/process.h"

namespace assay::runner::web {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kLookAgain{1000};      // for a daemon, while there is none
constexpr milliseconds kStatusEvery{5000};    // how old the number of free slots may get when nothing happens
constexpr milliseconds kRest{100};            // between two rounds of news: many runs change many times a second

json status_of(const Paths& paths) {
  if (auto client = Client::connect_to_running(paths)) {
    const json reply = client->request("status");
    return {{"running", true},
            {"slots", reply.at("slots")},
            {"used", reply.at("used")},
            {"waits", reply.at("waits")},
            {"started", reply.at("started")}};
  }
  return {{"running", false}};
}

}  // namespace

Live::Live(Paths paths) : paths_(std::move(paths)), daemon_({{"running", false}}), thread_([this] { watch(); }) {}

Live::~Live() {
  stop();
  thread_.join();
}

void Live::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

bool Live::pause(milliseconds time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] { return stopped_; });
}

void Live::see(const json& daemon) {
  const std::lock_guard lock(mutex_);
  if (daemon == daemon_) return;
  daemon_ = daemon;
  daemon_sequence_ = ++sequence_;
  changed_.notify_all();
}

void Live::tell(const std::vector<std::int64_t>& runs) {
  const std::lock_guard lock(mutex_);
  ++sequence_;
  for (const std::int64_t run : runs) runs_[run] = sequence_;
  changed_.notify_all();
}

void Live::watch() {
  for (;;) {
    try {
      auto client = Client::connect_to_running(paths_);
      if (client) {
        client->request("watch");
        see(status_of(paths_));
        auto seen = std::chrono::steady_clock::now();
        while (!pause(kRest)) {
          const auto runs = client->next_changes(milliseconds(500));
          if (!runs) break;
          if (!runs->empty()) tell(*runs);
          if (runs->empty() && std::chrono::steady_clock::now() - seen < kStatusEvery) continue;
          see(status_of(paths_));
          seen = std::chrono::steady_clock::now();
        }
      }
    } catch (const std::exception&) {
      // It went away between two requests: what follows is the same as for one that is not there.
    }
    see({{"running", false}});
    if (pause(kLookAgain)) return;
  }
}

Live::News Live::wait(std::uint64_t sequence, milliseconds patience) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [&] { return stopped_ || sequence_ > sequence; });
  News news;
  news.sequence = sequence_;
  news.daemon = daemon_;
  news.daemon_changed = daemon_sequence_ > sequence;
  if (sequence > 0)
    for (const auto& [run, changed] : runs_)
      if (changed > sequence) news.runs.push_back(run);
  return news;
}

json Live::daemon() const {
  const std::lock_guard lock(mutex_);
  return daemon_;
}

}  // namespace assay::runner::web

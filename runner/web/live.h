// What is going on, for everybody who looks at the page: one connection to the daemon, told on to many.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "runner/paths.h"

namespace assay::runner::web {

class Live {
 public:
  explicit Live(Paths paths);
  ~Live();

  struct News {
    std::uint64_t sequence = 0;              // ask for what comes after it next
    std::vector<std::int64_t> runs;          // that changed
    bool daemon_changed = false;
    nlohmann::json daemon;                   // {"running", "slots", "used", "waits": {"17": "…"}, "since"}
  };
  // What changed after `sequence`, as soon as something has or when the time is over. 0: nothing known yet.
  News wait(std::uint64_t sequence, std::chrono::milliseconds patience);
  // The daemon as it was last seen.
  nlohmann::json daemon() const;
  void stop();                               // ends the thread; wait() returns at once from then on

 private:
  void watch();
  void see(const nlohmann::json& daemon);
  void tell(const std::vector<std::int64_t>& runs);
  bool pause(std::chrono::milliseconds time);   // true: stopped

  Paths paths_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t sequence_ = 1;
  std::map<std::int64_t, std::uint64_t> runs_;  // run -> when it changed last
  nlohmann::json daemon_;
  std::uint64_t daemon_sequence_ = 1;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace assay::runner::web

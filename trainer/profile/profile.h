// Where a run's time goes: nested spans on the thread that trains. Off unless asked for, and then a load and a branch.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace assay::train {

class Profile {
 public:
  static constexpr std::size_t most_events = 1'000'000;  // in the trace; what comes later is only added up

  Profile();
  ~Profile();  // spans are recorded no longer
  Profile(const Profile&) = delete;

  // The table: for each outermost span, what its inner spans took without their own inner ones, seconds a step and share.
  std::string table(std::int64_t steps) const;
  // For chrome://tracing and ui.perfetto.dev: the Trace Event Format's complete events. Throws std::runtime_error.
  void write_trace(const std::filesystem::path& file) const;

 private:
  friend class Span;
  using Clock = std::chrono::steady_clock;
  struct Open {
    const char* name;
    Clock::time_point begin;
    double inner = 0;  // seconds of the spans inside
  };
  struct Event {
    const char* name;
    double begin, seconds;  // since the profile's beginning
  };
  struct Sum {
    double seconds = 0;  // without the spans inside
    std::int64_t count = 0;
  };
  void begin(const char* name);
  void end();

  Clock::time_point start_ = Clock::now();
  std::vector<Open> open_;
  std::vector<Event> events_;
  std::map<std::pair<std::string, std::string>, Sum> sums_;  // (outermost, own) name; own is empty for the outermost itself
};

// The one profile of the process, or nullptr. Its thread is the one that made it.
extern Profile* active_profile;

// From here to the end of the scope. `name` must live for ever: a literal.
class Span {
 public:
  explicit Span(const char* name) : profile_(active_profile) {
    if (profile_) profile_->begin(name);
  }
  ~Span() {
    if (profile_) profile_->end();
  }
  Span(const Span&) = delete;

 private:
  Profile* profile_;
};

}  // namespace assay::train

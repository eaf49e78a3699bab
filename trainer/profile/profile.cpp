#include "trainer/profile/profile.h"

#include <algorithm>
#include <cstdio>

#include "support/files.h"

namespace assay::train {

Profile* active_profile = nullptr;

Profile::Profile() { active_profile = this; }
Profile::~Profile() { active_profile = nullptr; }

void Profile::begin(const char* name) { open_.push_back({name, Clock::now()}); }

void Profile::end() {
  const Open span = open_.back();
  open_.pop_back();
  const double seconds = std::chrono::duration<double>(Clock::now() - span.begin).count();
  if (!open_.empty()) open_.back().inner += seconds;
  Sum& sum = sums_[{open_.empty() ? span.name : open_.front().name, open_.empty() ? "" : span.name}];
  sum.seconds += seconds - span.inner;
  ++sum.count;
  if (events_.size() < most_events)
    events_.push_back({span.name, std::chrono::duration<double>(span.begin - start_).count(), seconds});
}

std::string Profile::table(std::int64_t steps) const {
  std::map<std::string, double> outer;
  double all = 0;
  for (const auto& [names, sum] : sums_) {
    outer[names.first] += sum.seconds;
    all += sum.seconds;
  }
  std::vector<std::pair<std::string, double>> order(outer.begin(), outer.end());
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second > b.second; });

  const auto n = static_cast<double>(std::max<std::int64_t>(steps, 1));
  char line[160];
  std::string text;
  const auto row = [&](const std::string& name, double seconds, std::int64_t count) {
    const std::string times = count < 0 ? "" : std::to_string(count);
    std::snprintf(line, sizeof line, "%-34s %10.4f %7.1f %% %12s\n", name.c_str(), seconds / n, all > 0 ? 100 * seconds / all : 0,
                  times.c_str());
    text += line;
  };
  std::snprintf(line, sizeof line, "%-34s %10s %9s %12s\n", ("time of " + std::to_string(steps) + " steps").c_str(), "s a step", "share",
                "calls");
  text += line;
  for (const auto& [name, seconds] : order) {
    row(name, seconds, -1);
    std::vector<std::pair<std::string, Sum>> inner;
    for (const auto& [names, sum] : sums_)
      if (names.first == name) inner.emplace_back(names.second, sum);
    if (inner.size() == 1 && inner.front().first.empty()) continue;
    std::sort(inner.begin(), inner.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    for (const auto& [own, sum] : inner) row("  " + (own.empty() ? "the rest" : own), sum.seconds, sum.count);
  }
  row("all", all, -1);
  return text;
}

void Profile::write_trace(const std::filesystem::path& file) const {
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n";
  char line[200];
  for (const Event& event : events_) {
    std::snprintf(line, sizeof line, "{\"name\": \"%s\", \"ph\": \"X\", \"pid\": 1, \"tid\": 1, \"ts\": %.3f, \"dur\": %.3f},\n", event.name,
                  1e6 * event.begin, 1e6 * event.seconds);
    text += line;
  }
  text += "{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": 1, \"args\": {\"name\": \"assay-train\"}}\n]}\n";
  support::write_file_atomically(file, text);
}

}  // namespace assay::train

// From a run's folder into the registry. The only writer of metrics, evaluations, events and documents there.
//
// Reads what has been added since the last time (the offsets are in the registry, so a new daemon goes on where the last
// one was cut off; reading a piece twice is harmless). A line is taken once its newline is there. A line that is not
// what docs/run-folder.md says becomes an event of kind "bad_line" and is passed over.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::runner {

class Ingest {
 public:
  // `planned_steps`: from the config; the total shown until the trainer says how many there will be.
  Ingest(registry::Registry& registry, std::int64_t run, std::filesystem::path folder, std::int64_t planned_steps);

  // Takes in what is new; true when something was. A few stat calls when nothing is. Throws what the registry throws.
  bool poll();
  // The same for the last time, after the run's end: a last line without its newline is taken if it is whole, and
  // left out without complaint if it is torn.
  bool finish();

  bool finished_event() const { return finished_; }   // events.jsonl holds `finished`
  std::string last_finding() const { return finding_; }  // message of the last event of kind `finding`
  bool any_metrics() const { return progress_.last_time > 0; }

 private:
  bool poll_lines(const std::string& file, bool last);
  bool poll_evaluations(bool last);
  bool poll_document(const std::string& file, const std::string& kind);
  bool poll_all(bool last);
  void restore();                                     // this object's memory, from the registry
  void take_metrics(const std::string& line, std::vector<registry::MetricPoint>& points);
  void take_event(const std::string& line);
  void take_evaluation(const std::filesystem::path& summary);
  void bad_line(const std::string& file, std::int64_t offset, const std::string& why);
  std::int64_t& offset(const std::string& file);

  registry::Registry& registry_;
  std::int64_t run_;
  std::filesystem::path folder_;
  std::int64_t planned_steps_;
  registry::Progress progress_;
  bool finished_ = false;
  std::string finding_;
  std::map<std::string, std::int64_t> offsets_;       // as in the registry
  std::map<std::string, int> bad_lines_;              // told of, by file
  std::filesystem::file_time_type evaluations_seen_{};
};

}  // namespace assay::runner

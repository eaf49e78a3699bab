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
#include <string_view>
#include <utility>
#include <vector>

#include "registry/registry.h"
#include "runner/metrics_line.h"

namespace assay::runner {

class Ingest {
 public:
  // `planned_steps`: from the config; the total shown until the trainer says how many there will be.
  Ingest(registry::Registry& registry, std::int64_t run, std::filesystem::path folder, std::int64_t planned_steps);

  // Is there something new? Two stat calls; documents and evaluations are looked at every tenth time, by this and by the
  // poll() after it. Throws nothing.
  bool anything_new();
  // Takes in what is new, 16 MiB of lines at most; true when something was. Throws what the registry throws, and then
  // begins again from what is in the registry, as it must after a rollback of a transaction around it: forget().
  bool poll();
  // Did the last poll() leave whole pieces for the next?
  bool unread() const { return unread_; }
  void forget();
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
  std::int64_t key_number(std::size_t position, const std::string& name);
  void take_metrics(std::string_view line);
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
  int looks_ = 0;
  bool whole_ = true;                                 // the next poll() looks at documents and evaluations too
  bool unread_ = true;                                // the last poll() left something for the next
  MetricsLine line_;
  std::vector<std::pair<std::string, std::int64_t>> keys_;         // of the last line, by position
  std::vector<std::pair<std::int64_t, double>> values_;
};

}  // namespace assay::runner

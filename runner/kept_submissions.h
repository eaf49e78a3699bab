// Submissions that a client may submit again by a number instead of sending them once more: `assay add` of the same series,
// again and again, by the warm process (front/warm.h).
#pragma once

#include <cstdint>
#include <list>
#include <nlohmann/json.hpp>
#include <string>

#include "runner/protocol.h"

namespace assay::runner {

class KeptSubmissions {
 public:
  // Its number; 0 where it is not kept: too long, or a run_json that is no JSON object. The oldest go when there are more
  // than a few.
  std::int64_t keep(const Submission& submission);
  // With this batch and time of creation in each run; null where it is not there any more. Valid until the next call.
  const Submission* again(std::int64_t number, const std::string& batch, const std::string& created);
  const Submission* find(std::int64_t number) const;   // as it was submitted last; null where it is not there any more
  std::int64_t times() const { return times_; }   // that one was there

 private:
  struct Entry {
    std::int64_t number = 0;
    Submission submission;
    std::vector<nlohmann::json> documents;   // each run's run_json
  };
  std::list<Entry> entries_;                 // the one asked for last is the first
  std::int64_t last_ = 0, times_ = 0;
};

}  // namespace assay::runner

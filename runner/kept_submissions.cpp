#include "runner/kept_submissions.h"

#include <algorithm>

namespace assay::runner {
namespace {

constexpr std::size_t kMost = 8;
constexpr std::size_t kLongest = 256 << 10;   // bytes of texts, of one

std::size_t size_of(const Submission& submission) {
  std::size_t bytes = submission.series.json.size();
  for (const FrozenFile& file : submission.files) bytes += file.bytes.size();
  for (const auto& [run, doctor] : submission.runs)
    bytes += run.config_json.size() + run.derived_json.size() + run.run_json.size() + run.code_json.size() +
             run.environment_json.size() + run.inputs_json.size() + doctor.size();
  return bytes;
}

}  // namespace

std::int64_t KeptSubmissions::keep(const Submission& submission) {
  if (size_of(submission) > kLongest) return 0;
  Entry entry{last_ + 1, submission, {}};
  for (const auto& [run, doctor] : submission.runs) {
    entry.documents.push_back(nlohmann::json::parse(run.run_json, nullptr, false));
    if (!entry.documents.back().is_object()) return 0;
  }
  entries_.push_front(std::move(entry));
  if (entries_.size() > kMost) entries_.pop_back();
  return ++last_;
}

const Submission* KeptSubmissions::find(std::int64_t number) const {
  for (const Entry& entry : entries_)
    if (entry.number == number) return &entry.submission;
  return nullptr;
}

const Submission* KeptSubmissions::again(std::int64_t number, const std::string& batch, const std::string& created) {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.number == number; });
  if (found == entries_.end()) return nullptr;
  ++times_;
  entries_.splice(entries_.begin(), entries_, found);
  for (std::size_t i = 0; i < found->documents.size(); ++i) {
    found->documents[i]["batch"] = batch;
    found->documents[i]["created"] = created;
    found->submission.runs[i].run.run_json = dump(found->documents[i]);
    found->submission.runs[i].run.batch = batch;
  }
  return &found->submission;
}

}  // namespace assay::runner

// Submissions: what comes in, until it is queued.
#include <spdlog/spdlog.h>

#include <asio/post.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/fleet.h"
#include "runner/records.h"
#include "runner/run_folder.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::StateKind;

// The same series is submitted again and again; two waits for the disk a file are not.
void write_if_changed(const fs::path& file, const std::string& bytes) {
  if (support::file_holds(file, bytes)) return;
  fs::create_directories(file.parent_path());
  support::write_file_atomically(file, bytes);
}

// What is frozen with each run of a submission, and with this one.
std::vector<FrozenFile> files_of(const Submission& submission, const SubmittedRun& submitted) {
  std::vector<FrozenFile> files = submission.files;
  if (!submitted.doctor_json.empty()) files.push_back({"doctor.json", submitted.doctor_json});
  return files;
}

}  // namespace

std::vector<std::int64_t> Fleet::submit(const Submission& submission) {
  if (submission.runs.empty()) throw std::invalid_argument("the submission holds no run");
  std::vector<Job> jobs;
  for (const SubmittedRun& submitted : submission.runs) {
    const json& config = parsed(submitted.run.config_json);
    // What will be asked of it once it is recorded: a message that lacks it is refused whole.
    config.at("train").at("threads").get<int>();
    config.at("train").at("steps").get<std::int64_t>();
    config.at("trainer").at("kind").get<std::string>();
    refuse_what_never_fits(submission.series.id + "/" + submitted.run.run, config);
    jobs.push_back(job_of(0, config, submission.series.id, submitted.run.group));
  }
  if (!is_plain_name(submission.series.id))
    throw std::invalid_argument("a series cannot have the id '" + submission.series.id.substr(0, 80) + "'");
  put_series_files(submission);
  std::vector<registry::NewRun> runs;
  for (const SubmittedRun& submitted : submission.runs) runs.push_back(submitted.run);
  std::vector<fs::path> made;
  std::vector<std::int64_t> numbers;
  try {
    const auto add = [&] {
      numbers = registry_.add_runs(runs, [&](std::int64_t number, const registry::NewRun& run) {
        const SubmittedRun& submitted = submission.runs.at(made.size());  // asked for in their order
        made.push_back(create_run_folder(paths_.runs(), number, run, files_of(submission, submitted), &spare_));
        return made.back().string();
      });
    };
    // The same series comes again and again: its rows and what its file says are there, unless somebody else has written.
    bool there = has_recorded(submission.series);
    if (there) registry_.batch([&] {
      there = registry_.version_of_others() == others_;
      if (there) add();
    });
    if (!there) {
      put_series_rows(submission.series);
      registry_.batch(add);
    }
  } catch (...) {
    std::error_code ignored;
    for (const fs::path& folder : made) fs::remove_all(folder, ignored);
    throw;
  }

  event::Submitted event;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    states_[numbers[i]] = StateKind::queued;
    Job& job = jobs[i];
    job.number = numbers[i];
    job.priority = runs[i].priority;
    job.after = unfinished(runs[i].after, true, &event.failed);
    job.after_any = unfinished(runs[i].after_any, false, nullptr);
    event.jobs.push_back(std::move(job));
    changed_(numbers[i]);
  }
  // Whoever asked gets the numbers before the first one starts.
  asio::post(io_, [this, event, series = submission.series.id] {
    log_->info("{} runs of {} added: {} to {}", event.jobs.size(), series, event.jobs.front().number, event.jobs.back().number);
    happened(event);
  });
  return numbers;
}

void Fleet::expect(const Submission& submission) {
  if (submission.runs.size() == 1) spare_.prepare(submission.runs[0].run, files_of(submission, submission.runs[0]));
}

// Every record is first a file: the registry can be rebuilt from these and the run folders.
void Fleet::put_series_files(const Submission& submission) {
  const fs::path folder = paths_.series() / submission.series.id;
  write_if_changed(folder / "series.json", submission.series.json + "\n");
  for (const FrozenFile& file : submission.files) {
    if (!is_plain_name(file.name)) throw std::invalid_argument("a file cannot have the name '" + file.name.substr(0, 80) + "'");
    if (file.name != "dirty.diff") write_if_changed(folder / file.name, file.bytes);
  }
}

bool Fleet::has_recorded(const registry::SeriesRow& series) const {
  const auto known = series_.find(series.id);
  return known != series_.end() && known->second.title == series.title && known->second.goal == series.goal &&
         known->second.json == series.json;
}

void Fleet::put_series_rows(const registry::SeriesRow& series) {
  constexpr std::size_t kMost = 16, kLongest = 64 << 10;   // series that are remembered, and bytes of one
  // Before they are looked at: what another writes meanwhile must not pass for seen.
  if (const std::int64_t others = registry_.version_of_others(); others != others_ || series_.size() >= kMost) {
    series_.clear();
    others_ = others;
  }
  series_.erase(series.id);
  registry_.put_series(series);
  record_series_file(paths_, registry_, series, unix_now());
  if (series.json.size() <= kLongest) series_[series.id] = series;
}

}  // namespace assay::runner

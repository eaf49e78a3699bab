#include "runner/executors/slurm_words.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace assay::runner::slurm {

using nlohmann::json;
using registry::State;
using registry::StateKind;

namespace {

std::optional<std::int64_t> number(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  for (const char c : line) {
    if (c == '|') cells.emplace_back();
    else cells.back() += c;
  }
  return cells;
}

// For /bin/sh, whatever is in it.
std::string quoted(const std::string& text) {
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'') word += "'\\''";
    else word += c;
  }
  return word + "'";
}

}  // namespace

std::string to_json(const Place& place) {
  return json{{"name", place.name}, {"task", place.task}, {"job", place.job}}.dump() + "\n";
}

Place place_from_json(const std::string& text) {
  try {
    const json document = json::parse(text);
    return {document.at("name").get<std::string>(), document.at("task").get<std::int64_t>(),
            document.at("job").get<std::int64_t>()};
  } catch (const json::exception& error) {
    throw std::runtime_error(std::string("slurm.json is not what assay writes: ") + error.what());
  }
}

std::vector<std::string> resources(const json& config) {
  const json& schedule = config.at("schedule");
  const json& train = config.at("train");
  const std::int64_t ranks = train.value("ranks", std::int64_t{1});
  std::vector<std::string> options = {"--cpus-per-task=" + std::to_string(train.at("threads").get<std::int64_t>())};
  if (ranks > 1) options.push_back("--ntasks=" + std::to_string(ranks));
  if (const auto memory = schedule.value("memory", std::int64_t{0}); memory > 0)
    options.push_back("--mem=" + std::to_string(memory) + "M");
  const bool computes = train.value("device", "cpu") == "cuda";
  const auto gpus = std::max<std::int64_t>(schedule.value("gpus", std::int64_t{0}), computes ? ranks : 0);
  // A rank's GPU has to be where the rank is.
  if (computes && ranks > 1) options.push_back("--gpus-per-task=" + std::to_string((gpus + ranks - 1) / ranks));
  else if (gpus > 0) options.push_back("--gpus=" + std::to_string(gpus));
  // Our own supervisor keeps the limit to the second; Slurm's is the backstop, in minutes, two later.
  if (const double limit = schedule.value("time_limit", 0.0); limit > 0)
    options.push_back("--time=" + std::to_string(static_cast<std::int64_t>(std::ceil(limit / 60)) + 2));
  for (const json& option : schedule.value("slurm_options", json::array())) options.push_back(option.get<std::string>());
  return options;
}

std::vector<std::string> sbatch(const std::string& name, std::size_t tasks, const std::vector<std::string>& resources,
                                const std::string& log) {
  std::vector<std::string> words = {"sbatch", "--parsable", "--requeue", "--open-mode=append", "--job-name=" + name,
                                    "--array=0-" + std::to_string(tasks - 1), "--chdir=/", "--output=" + log};
  words.insert(words.end(), resources.begin(), resources.end());
  return words;
}

std::string script(const std::string& program, const std::string& list) {
  // exec: the process that Slurm signals is the supervisor itself.
  return "#!/bin/sh\nexec " + quoted(program) + " slurm-task " + quoted(list) + "\n";
}

std::optional<std::int64_t> job_of(const std::string& answer) { return number(answer.substr(0, answer.find_first_of(";\n"))); }

std::vector<std::string> squeue() {
  return {"squeue", "--noheader", "--array", "--me", "--states=all", "--format=%F|%K|%T|%r|%N|%j"};
}

std::vector<Row> rows(const std::string& answer) {
  std::vector<Row> all;
  std::istringstream lines(answer);
  for (std::string line; std::getline(lines, line);) {
    const auto cells = cells_of(line);
    if (cells.size() != 6) continue;
    const auto job = number(cells[0]), task = number(cells[1]);
    if (job && task) all.push_back({*job, *task, cells[2], cells[3], cells[4], cells[5]});
  }
  return all;
}

Phase phase(const std::string& state) {
  for (const char* word : {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED"})
    if (state == word) return Phase::running;
  for (const char* word : {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
                           "OUT_OF_MEMORY", "REVOKED"})
    if (state == word) return Phase::over;
  return Phase::waiting;   // PENDING, CONFIGURING, REQUEUED, REQUEUE_HOLD, SPECIAL_EXIT, RESIZING, and words still to come
}

std::string waits(const Row& row) {
  const bool told = !row.reason.empty() && row.reason != "None";
  return "Slurm: " + (told ? row.reason : row.state);
}

std::vector<std::string> sacct(const Place& place) {
  return {"sacct", "--noheader", "--parsable2", "--units=K", "--format=JobID,State,ExitCode,ElapsedRaw,MaxRSS",
          "--jobs=" + place.id()};
}

std::optional<Accounted> accounted(const std::string& answer) {
  // The job first, then its steps, "17_3.batch", "17_3.0": only these have a MaxRSS.
  std::optional<Accounted> job;
  std::istringstream lines(answer);
  for (std::string line; std::getline(lines, line);) {
    const auto cells = cells_of(line);
    if (cells.size() != 5) continue;
    if (cells[0].find('.') == std::string::npos) {
      if (job) break;
      job.emplace();
      job->state = cells[1].substr(0, cells[1].find(' '));   // "CANCELLED by 1000"
      const auto colon = cells[2].find(':');
      job->code = static_cast<int>(number(cells[2].substr(0, colon)).value_or(0));
      if (colon != std::string::npos) job->signal = static_cast<int>(number(cells[2].substr(colon + 1)).value_or(0));
      job->elapsed = number(cells[3]).value_or(0);
    } else if (job && !cells[4].empty()) {
      const double kibibytes = std::strtod(cells[4].c_str(), nullptr);   // "51312K", "51312.50K"
      job->max_rss = std::max(job->max_rss, static_cast<std::int64_t>(kibibytes * 1024));
    }
  }
  if (job && phase(job->state) != Phase::over) job.reset();
  return job;
}

std::string event_line(const Place& place, const Accounted& job, double when) {
  std::string message = "Slurm's job " + place.id() + ": " + job.state + ", exit code " + std::to_string(job.code);
  if (job.signal != 0) message += ", signal " + std::to_string(job.signal);
  message += ", " + std::to_string(job.elapsed) + " s";
  if (job.max_rss >= 0) message += ", at most " + std::to_string(job.max_rss >> 20) + " MiB";
  json data = {{"job", place.id()}, {"state", job.state}, {"exit_code", job.code}, {"signal", job.signal},
               {"elapsed", job.elapsed}, {"max_rss", nullptr}};
  if (job.max_rss >= 0) data["max_rss"] = job.max_rss;
  return json{{"time", when}, {"step", -1}, {"kind", "slurm_accounting"}, {"message", message}, {"data", data}}.dump();
}

State without_record(const std::string& state, const std::string& job, const std::string& by) {
  if (!by.empty()) return {StateKind::killed, {}, {}, by};
  if (state == "CANCELLED") return {StateKind::killed, {}, {}, "cancelled in Slurm (job " + job + ")"};
  if (state == "PREEMPTED") return {StateKind::killed, {}, {}, "preempted in Slurm and not requeued (job " + job + ")"};
  if (state == "TIMEOUT" || state == "DEADLINE") return {StateKind::killed, {}, {}, "Slurm's time limit (job " + job + ")"};
  if (state == "OUT_OF_MEMORY")
    return {StateKind::failed, {}, {}, "Slurm ended job " + job + " for its memory; ask for more with schedule.memory"};
  if (state.empty()) return {StateKind::lost, {}, {}, "Slurm does not know job " + job + " any more, and there is no exit record"};
  return {StateKind::lost, {}, {}, "Slurm says " + state + " of job " + job + ", and its supervisor left no exit record"};
}

}  // namespace assay::runner::slurm

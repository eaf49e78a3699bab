// What we say to Slurm and what it says to us, as text. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::runner::slurm {

// slurm.json in a run folder: where the run's present attempt is to be found. Written with job 0 before sbatch is called,
// and again with the number that it gave: after a crash in between, the name finds the job.
struct Place {
  std::string name;            // the array's job name, of this attempt alone
  std::int64_t task = 0;       // the run's task in that array
  std::int64_t job = 0;        // the array's job id; 0: not known yet
  bool operator==(const Place&) const = default;
  std::string id() const { return std::to_string(job) + "_" + std::to_string(task); }
};
std::string to_json(const Place& place);
Place place_from_json(const std::string& text);   // throws std::runtime_error on anything else

// sbatch's options that follow from a run's configuration: cores, memory, GPUs, time, then schedule.slurm_options.
// Runs of one array have the same.
std::vector<std::string> resources(const nlohmann::json& config);
// sbatch and its arguments for an array of `tasks` runs; the script goes to its standard input.
std::vector<std::string> sbatch(const std::string& name, std::size_t tasks, const std::vector<std::string>& resources,
                                const std::string& log);
// The script: task i executes the run of line i of `list`.
std::string script(const std::string& program, const std::string& list);
// sbatch --parsable's answer: "17" or "17;cluster".
std::optional<std::int64_t> job_of(const std::string& answer);

// squeue and its arguments for all jobs of this user, finished ones that Slurm still remembers included.
std::vector<std::string> squeue();
struct Row {
  std::int64_t job = 0, task = 0;
  std::string state, reason, nodes, name;
};
// Lines that are not of a job array are left out.
std::vector<Row> rows(const std::string& answer);

enum class Phase { waiting, running, over };
Phase phase(const std::string& state);
// "Slurm: Resources", for `assay status`.
std::string waits(const Row& row);

// What Slurm's accounting (sacct) says of a job's latest life.
struct Accounted {
  std::string state;
  int code = 0, signal = 0;      // of the batch script
  std::int64_t elapsed = 0;      // seconds
  std::int64_t max_rss = -1;     // bytes, of the largest process of any step; -1: the cluster does not gather it
};
std::vector<std::string> sacct(const Place& place);
// Nothing when accounting does not know the job, or not its end yet.
std::optional<Accounted> accounted(const std::string& answer);
// A line of events.jsonl.
std::string event_line(const Place& place, const Accounted& job, double when);

// The final state of a job of which there is no exit record of ours, by Slurm's word for it. `by`: who asked us to end it,
// empty if nobody did. `job`: how its detail names it, "17_3".
registry::State without_record(const std::string& state, const std::string& job, const std::string& by);

}  // namespace assay::runner::slurm

#include "runner/submit.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <tuple>

#include "experiments/spec/canonical.h"
#include "registry/facts.h"
#include "registry/registry.h"
#include "runner/attempts.h"
#include "runner/console/parser.h"
#include "runner/doctor.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/selection.h"
#include "runner/view.h"
#include "support/looks.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::Registry;

std::string new_batch_id() {
  // The time for people, the random part so that two commands of one second stay apart.
  char suffix[16];
  std::snprintf(suffix, sizeof suffix, "-%06x", std::random_device{}() & 0xffffffU);
  return iso_time(unix_now()) + suffix;
}

json labels_of(const std::vector<std::string>& entries) {
  json labels = json::object();
  for (const std::string& entry : entries) {
    const auto equals = entry.find('=');
    if (equals == std::string::npos || equals == 0)
      throw UserError(kUsage, "--label " + entry + ": it is not KEY=VALUE; write for example --label machine=lab2");
    labels[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  return labels;
}

void refuse_what_cannot_run(const std::vector<ResolvedSeries>& all) {
  std::string lines;
  std::set<std::string> told;
  for (const ResolvedSeries& series : all)
    for (const ResolvedRun& run : series.runs) {
      spec::Config config = run.config;
      // A program given by a relative path lies beside the series file, where the trainer runs.
      if (!config.trainer.argv.empty() && config.trainer.argv[0].find('/') != std::string::npos)
        config.trainer.argv[0] = (series.folder / config.trainer.argv[0]).string();
      std::string missing = spec::missing_to_run(config, run.derived);
      if (config.trainer.metrics == "regex")
        if (const std::string fault = console::regex_fault(config.trainer.metrics_regex); !fault.empty())
          missing = "trainer.metrics_regex: " + fault;
      if (!missing.empty() && told.insert(series.series.id + missing).second)
        lines += (lines.empty() ? "" : "\n") + series.series.id + ": " + missing;
    }
  if (!lines.empty()) throw UserError(kRefused, lines);
}

// Facts of the repository the user stands in; where that is none, of the one the series file lies in.
registry::CodeFacts code_facts_for(const fs::path& series_folder) {
  registry::CodeFacts facts = registry::code_facts(fs::current_path());
  if (!json::parse(facts.json).at("user").is_null() || series_folder.empty() || series_folder == fs::current_path()) return facts;
  return registry::code_facts(series_folder);
}

constexpr int kTrainerRefused = 3;   // an exit code of assay-train (trainer/grpo/exit_code.h)

class Preflight {
 public:
  explicit Preflight(const std::vector<ResolvedSeries>& all) {
    std::map<std::string, int> ids;   // an id that stands for several configs is told apart by its series
    for (const ResolvedSeries& series : all)
      for (const ResolvedRun& run : series.runs) {
        if (run.config.trainer.kind != "embedded") continue;
        const std::string key = key_of(run);
        if (place_.count(key) != 0) continue;
        place_[key] = jobs_.size();
        std::string name = run.run.run;
        if (ids[name]++ > 0) name = run.run.series + "/" + name;
        jobs_.push_back(doctor_job(run, name));
      }
  }

  void run(const Paths& paths, bool strict) {
    if (jobs_.empty()) return;
    std::fprintf(stderr, "preflight of %zu configs\n", jobs_.size());
    results_ = run_doctors(paths, jobs_);
    refuse_bad_input();
    bool wrong = false;
    for (const GroupedFinding& group : group_findings(jobs_, results_)) {
      std::string names;
      for (const std::string& name : group.names) names += (names.empty() ? "" : ", ") + name;
      std::fprintf(stderr, "%s: %s: %s%s%s\n", group.severity == "error" ? "warning (will not work)" : "warning",
                   names.c_str(), group.what.c_str(), group.change.empty() ? "" : "; ", group.change.c_str());
      wrong |= group.severity == "error";
    }
    if (strict && wrong)
      throw UserError(kFindings, "doctor: there are findings of severity error, and --strict refuses to run with them; "
                                 "change the config as they say, or leave --strict away");
  }

  std::string document_of(const ResolvedRun& run) const {
    if (results_.empty()) return "";
    const auto found = place_.find(key_of(run));
    return found == place_.end() ? "" : results_[found->second].json;
  }

 private:
  // A model or data that the trainer refuses now it would refuse in the run as well.
  void refuse_bad_input() const {
    std::string lines;
    std::set<std::string> told;
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      const DoctorResult& result = results_[i];
      if (result.exit_code == kTrainerRefused && !result.error.empty() && told.insert(result.error).second)
        lines += (lines.empty() ? "" : "\n") + jobs_[i].name + ": " + result.error;
    }
    if (!lines.empty()) throw UserError(kRefused, lines);
  }

  // Distinct but for the seed: what a preflight finds does not hang on it.
  static std::string key_of(const ResolvedRun& run) {
    spec::Config config = run.config;
    config.train.seed = 1;
    return run.derived.model_path + '\n' + run.derived.test_path + '\n' + spec::config_hash(config);
  }

  std::vector<DoctorJob> jobs_;
  std::vector<DoctorResult> results_;
  std::map<std::string, std::size_t> place_;
};

// The facts' sums for the model and data of a run: cheap to ask again, as sums are kept by the files' times.
std::string input_sums(const spec::Derived& derived, const fs::path& cache) {
  const auto ask = [model = derived.model_path, train = derived.train_path, test = derived.test_path, cache] {
    const support::Looks::Recording none(nullptr);
    return registry::input_facts(model, train, test, cache);
  };
  std::string sums = ask();
  if (auto* looks = support::Looks::current()) looks->add([ask, sums] { return ask() == sums; });
  return sums;
}

json programs_noted(const std::vector<std::string>& argv, const fs::path& folder, ProgramMarks& marks) {
  const auto ask = [argv, folder, &marks] {
    const support::Looks::Recording none(nullptr);
    return programs_of(argv, folder, &marks);
  };
  json programs = ask();
  if (auto* looks = support::Looks::current()) looks->add([ask, programs] { return ask() == programs; });
  return programs;
}

// Batch and time into the runs.
void fill_in(Prepared& prepared) {
  if (prepared.filled_in) return;
  for (Submission& submission : prepared.submissions)
    for (SubmittedRun& submitted : submission.runs) {
      json document = json::parse(submitted.run.run_json);
      document["batch"] = prepared.batch;
      document["created"] = prepared.created;
      submitted.run.run_json = dump(document);
      submitted.run.batch = prepared.batch;
    }
  prepared.filled_in = true;
}

}  // namespace

void read_machine(Kept& kept) {
  const double now = unix_now();
  if (!kept.environment.empty() && now - kept.environment_read <= 10 && now >= kept.environment_read) return;
  const support::Looks::Recording none(nullptr);
  kept.environment = registry::environment_facts();
  kept.environment_read = now;
}

void renew(Prepared& prepared) {
  prepared.batch = new_batch_id();
  prepared.created = iso_time(unix_now());
  prepared.filled_in = false;
}

Prepared prepare(const Paths& paths, const SubmitOptions& options, Kept* kept) {
  Kept none;
  if (kept == nullptr) kept = &none;
  // Opened where former runs are spoken of: it takes as long as all that a series needs.
  std::optional<Registry> registry;
  const auto& words = options.what.words;
  if (!options.after.empty() || !options.after_any.empty() ||
      std::any_of(words.begin(), words.end(), [](const std::string& word) { return as_number(word).has_value(); }))
    registry = Registry::open(paths.registry(), Registry::Access::read_only);
  if (registry || options.doctor) support::look_cannot_be_kept();
  const json labels = labels_of(options.labels);
  std::vector<ResolvedSeries> all = resolve(options.what, registry ? &*registry : nullptr);
  const auto numbers_after = [&](const std::vector<std::string>& runs) {
    return runs.empty() ? std::vector<std::int64_t>() : numbers_of(*registry, runs);
  };
  const std::vector<std::int64_t> after = numbers_after(options.after), after_any = numbers_after(options.after_any);
  refuse_what_cannot_run(all);
  const bool embedded = std::any_of(all.begin(), all.end(), [](const ResolvedSeries& series) {
    return std::any_of(series.runs.begin(), series.runs.end(),
                       [](const ResolvedRun& run) { return run.config.trainer.kind == "embedded"; });
  });
  const std::string trainer = embedded ? find_trainer().string() : "";
  Preflight preflight(all);
  if (options.doctor) preflight.run(paths, options.strict);

  read_machine(*kept);
  const std::string& environment = kept->environment;
  std::map<std::tuple<std::string, std::string, std::string>, std::string> inputs;
  Prepared prepared;
  renew(prepared);
  prepared.filled_in = true;
  for (ResolvedSeries& series : all) {
    const registry::CodeFacts code = code_facts_for(series.folder);
    std::map<std::vector<std::string>, json> executed;   // what each command line starts, looked at once
    Submission submission;
    submission.series = series.series;
    submission.files = series.files;
    if (!code.dirty_diff.empty()) submission.files.push_back({"dirty.diff", code.dirty_diff});
    for (ResolvedRun& resolved : series.runs) {
      registry::NewRun& run = resolved.run;
      const spec::Derived& derived = resolved.derived;
      std::string& sums = inputs[{derived.model_path, derived.train_path, derived.test_path}];
      if (sums.empty()) sums = input_sums(derived, paths.input_cache());
      json document = json::parse(run.run_json);
      document["batch"] = prepared.batch;
      document["created"] = prepared.created;
      document["labels"] = labels;
      document["work_folder"] = series.folder.string();
      const bool own = resolved.config.trainer.kind == "embedded";
      if (own) document["trainer"] = trainer;
      json& programs = executed[own ? std::vector<std::string>{trainer} : resolved.config.trainer.argv];
      if (programs.is_null())
        programs = programs_noted(own ? std::vector<std::string>{trainer} : resolved.config.trainer.argv, series.folder, kept->marks);
      document["programs"] = programs;
      run.run_json = dump(document);
      run.batch = prepared.batch;
      run.code_json = code.json;
      run.environment_json = environment;
      run.inputs_json = sums;
      run.priority = options.priority;
      run.group = options.group.empty() ? resolved.config.schedule.group : options.group;
      run.after = after;
      run.after_any = after_any;
      prepared.labels.push_back(label(run.run, run.seed));
      submission.runs.push_back({run, preflight.document_of(resolved)});
    }
    prepared.submissions.push_back(std::move(submission));
  }
  return prepared;
}

std::vector<std::int64_t> submit_prepared(Client& client, Prepared& prepared, std::int64_t* kept) {
  fill_in(prepared);
  std::vector<std::int64_t> numbers;
  for (const Submission& submission : prepared.submissions) {
    json message = to_json(submission);
    if (kept != nullptr) message["keep"] = true;
    const json reply = client.request("submit", std::move(message));
    if (kept != nullptr) *kept = reply.value("kept", std::int64_t{0});
    for (const json& number : reply.at("numbers")) numbers.push_back(number.get<std::int64_t>());
  }
  return numbers;
}

void hand_on(Client& client, const Prepared& prepared, std::int64_t kept, bool as_json, int connection) {
  client.hand_on("submit", {{"kept", kept}, {"batch", prepared.batch}, {"created", prepared.created}, {"front", as_json ? "json" : "text"}},
                 connection);
}

std::vector<std::int64_t> submit(const Paths& paths, Client& client, const SubmitOptions& options,
                                 std::vector<std::string>* labels) {
  Prepared prepared = prepare(paths, options);
  std::vector<std::int64_t> numbers = submit_prepared(client, prepared);
  if (labels != nullptr) *labels = std::move(prepared.labels);
  return numbers;
}

}  // namespace assay::runner

#include "runner/executors/slurm.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <asio/post.hpp>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/executors/command.h"
#include "runner/executors/slurm_task.h"
#include "support/files.h"

namespace assay::runner {

namespace fs = std::filesystem;

namespace {

constexpr double kCommandTime = 60;    // seconds; a busy slurmctld answers late
constexpr double kTryAgain = 5;        // after Slurm did not answer
constexpr auto kAccountingEvery = std::chrono::seconds(1);
constexpr int kAccountingLooks = 20;
constexpr int kLooksWithoutRecord = 5; // an exit record may arrive later than Slurm's word, over a network file system

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

bool in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string folders = path == nullptr ? "" : path;
  for (std::size_t begin = 0; begin <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', begin), folders.size());
    if (::access((folders.substr(begin, end - begin) + "/" + program).c_str(), X_OK) == 0) return true;
    begin = end + 1;
  }
  return false;
}

// Seconds between two looks at the queue: $ASSAY_SLURM_POLL, or 3, so that hundreds of users do not wear slurmctld down.
double look_every() {
  const char* text = std::getenv("ASSAY_SLURM_POLL");
  const double seconds = text == nullptr ? 0 : std::strtod(text, nullptr);
  return seconds > 0 ? seconds : 3;
}

}  // namespace

// An attempt that Slurm has, or is about to get.
struct SlurmExecutor::Live {
  std::int64_t number = 0, attempt = 0;
  fs::path folder;
  std::string series;
  std::vector<std::string> resources;
  slurm::Place place;
  std::string state, nodes;            // what squeue said last
  bool executes = false;               // told so
  bool cancelled = false;              // it waited, and scancel has been told
  std::chrono::steady_clock::time_point told{};   // when its supervisor was last told to end
  int looks_without_record = 0;
  bool settled = false;                // how it ended is known, and accounting is being asked
  bool ended = false;
};

SlurmExecutor::SlurmExecutor(const ExecutorContext& context)
    : context_(context), timer_(context.io), every_(look_every()), accounting_(in_path("sacct")) {}

SlurmExecutor::~SlurmExecutor() = default;

std::string SlurmExecutor::refusal(const nlohmann::json&) const {
  for (const char* program : {"sbatch", "squeue", "scancel"})
    if (!in_path(program))
      return std::string("schedule.executor = \"slurm\" needs ") + program +
             ", and the daemon's PATH has none; install Slurm's client (Debian: slurm-client), or say \"local\"";
  return "";
}

SlurmExecutor::LivePtr SlurmExecutor::add(const Attempt& attempt) {
  const auto live = std::make_shared<Live>();
  live->number = attempt.row.number;
  live->attempt = attempt.row.attempt;
  live->folder = attempt.row.folder;
  live->series = attempt.row.series;
  live->resources = slurm::resources(nlohmann::json::parse(attempt.row.config_json));
  live_[live->number] = live;
  return live;
}

// ---- submitting -----------------------------------------------------------------------------------------------------

void SlurmExecutor::start(const std::vector<Attempt>& attempts) {
  std::map<std::pair<std::string, std::vector<std::string>>, std::shared_ptr<Batch>> batches;
  for (const Attempt& attempt : attempts) {
    const LivePtr live = add(attempt);
    auto& batch = batches[{live->series, live->resources}];
    if (!batch) batch = std::make_shared<Batch>();
    batch->push_back(live);
  }
  for (const auto& [what, batch] : batches) {
    // Of this attempt of its first run, in this data folder: no other job of ours has that name, ever.
    const Live& first = *batch->front();
    const std::string name = "assay-" + support::sha256_hex(first.folder.string()).substr(0, 12) + "-" +
                             std::to_string(first.number) + "-" + std::to_string(first.attempt);
    for (std::size_t task = 0; task < batch->size(); ++task)
      (*batch)[task]->place = {name, static_cast<std::int64_t>(task), 0};
    submit(batch);
  }
}

void SlurmExecutor::submit(const std::shared_ptr<Batch>& batch) {
  const LivePtr first = batch->front();
  const fs::path folder = context_.paths.data / "slurm", list = folder / (first->place.name + ".runs");
  try {
    fs::create_directories(folder);
    std::string lines;
    for (const LivePtr& live : *batch) lines += live->folder.string() + "\n";
    support::write_file_atomically(list, lines);
    // Before sbatch: whoever comes after a crash knows what to look for.
    for (const LivePtr& live : *batch) support::write_file_atomically(live->folder / "slurm.json", slurm::to_json(live->place));
  } catch (const std::exception& fault) {
    return submit_later(batch, fault.what());
  }
  const std::string log = (folder / (first->place.name + "_%a.log")).string();
  run_command(context_.io, slurm::sbatch(first->place.name, batch->size(), first->resources, log),
              slurm::script(fs::read_symlink("/proc/self/exe").string(), list.string()), kCommandTime,
              [this, batch](const CommandResult& result) {
    const auto job = slurm::job_of(result.out);
    if (result.code == 0 && job) return submitted(*batch, *job);
    const std::string said = first_line(result.err);
    // No answer is no refusal: the job may be there. Anything else that sbatch says is final.
    const bool unanswered = result.code < 0 || said.find("Unable to contact") != std::string::npos ||
                            said.find("ocket timed out") != std::string::npos;
    if (unanswered) return submit_later(batch, said);
    for (const LivePtr& live : *batch)
      guarded(live, [&] { over(live, registry::State{registry::StateKind::failed, {}, {}, said}, unix_now()); });
  });
}

void SlurmExecutor::submit_later(const std::shared_ptr<Batch>& batch, const std::string& why) {
  context_.log->warn("run {}: it could not be handed to Slurm: {}", batch->front()->number, why);
  for (const LivePtr& live : *batch) guarded(live, [&] { context_.listener.waits(live->number, "Slurm: " + why); });
  const auto timer = std::make_shared<asio::steady_timer>(context_.io, std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                                                           std::chrono::duration<double>(kTryAgain)));
  timer->async_wait([this, batch, timer](const asio::error_code& error) {
    if (error) return;
    // Is it there after all?
    run_command(context_.io, slurm::squeue(), "", kCommandTime, [this, batch](const CommandResult& result) {
      if (result.code != 0) return submit_later(batch, first_line(result.err));
      for (const slurm::Row& row : slurm::rows(result.out))
        if (row.name == batch->front()->place.name) return submitted(*batch, row.job);
      Batch wanted;
      for (const LivePtr& live : *batch) {
        if (!fs::exists(live->folder / "kill.json")) wanted.push_back(live);
        else guarded(live, [&] { settle_without_record(live, "CANCELLED"); });
      }
      if (wanted.size() != batch->size())
        for (std::size_t task = 0; task < wanted.size(); ++task) wanted[task]->place.task = static_cast<std::int64_t>(task);
      if (!wanted.empty()) submit(std::make_shared<Batch>(wanted));
    });
  });
}

void SlurmExecutor::submitted(const Batch& batch, std::int64_t job) {
  for (const LivePtr& live : batch) {
    live->place.job = job;
    try {
      support::write_file_atomically(live->folder / "slurm.json", slurm::to_json(live->place));
    } catch (const std::exception& fault) {
      // Its name finds it as well.
      context_.log->warn("run {}: {}", live->number, fault.what());
    }
    context_.log->info("run {} is Slurm's job {}", live->number, live->place.id());
  }
  look_soon(0.2);
}

void SlurmExecutor::adopt(const Attempt& attempt) {
  const LivePtr live = add(attempt);
  guarded(live, [&] {
    const fs::path file = live->folder / "slurm.json";
    // It was recorded as starting, and no further: nothing of it can be anywhere.
    if (!fs::exists(file)) return start({attempt});
    live->place = slurm::place_from_json(support::read_file(file));
    live->executes = attempt.row.state.kind == registry::StateKind::running;
    look_soon(0);
  });
}

// ---- watching -------------------------------------------------------------------------------------------------------

void SlurmExecutor::look_soon(double seconds) {
  if (looking_) {
    soon_ = true;
    return;
  }
  timer_.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds)));
  timer_.async_wait([this](const asio::error_code& error) {
    if (!error) look();
  });
}

void SlurmExecutor::look() {
  if (live_.empty() || looking_) return;
  looking_ = true;
  run_command(context_.io, slurm::squeue(), "", kCommandTime, [this](const CommandResult& result) {
    looking_ = false;
    if (result.code == 0) {
      unreachable_.clear();
      heard(slurm::rows(result.out));
    } else {
      // Jobs go on without slurmctld; those that have ended have left their records.
      if (const std::string said = first_line(result.err); said != unreachable_) {
        context_.log->warn("squeue: {}", said);
        unreachable_ = said;
      }
      const auto all = live_;
      for (const auto& [number, live] : all) guarded(live, [&, live = live] { settle_by_record(live, false); });
    }
    if (!live_.empty()) look_soon(std::exchange(soon_, false) ? 0.2 : every_);
  });
}

void SlurmExecutor::heard(const std::vector<slurm::Row>& rows) {
  std::map<std::pair<std::int64_t, std::int64_t>, const slurm::Row*> by_id;
  std::map<std::pair<std::string, std::int64_t>, const slurm::Row*> by_name;
  for (const slurm::Row& row : rows) {
    by_id[{row.job, row.task}] = &row;
    by_name[{row.name, row.task}] = &row;
  }
  const auto all = live_;
  for (const auto& [number, live] : all) {
    if (live->place.name.empty() || live->settled) continue;
    const slurm::Row* row = nullptr;
    if (live->place.job != 0) {
      if (const auto found = by_id.find({live->place.job, live->place.task}); found != by_id.end()) row = found->second;
    } else if (const auto found = by_name.find({live->place.name, live->place.task}); found != by_name.end()) {
      row = found->second;
      live->place.job = row->job;
    }
    guarded(live, [&, live = live] { heard_of(live, row); });
  }
}

void SlurmExecutor::heard_of(const LivePtr& live, const slurm::Row* row) {
  if (row == nullptr) return forgotten(live);
  live->state = row->state;
  live->nodes = row->nodes;
  switch (slurm::phase(row->state)) {
    case slurm::Phase::waiting:
      // Back in the queue, perhaps, with the record of the attempt's former life: the next will put that aside.
      live->executes = false;
      if (fs::exists(live->folder / "kill.json")) return tell_to_end(live, false);
      return context_.listener.waits(live->number, slurm::waits(*row));
    case slurm::Phase::running:
      context_.listener.waits(live->number, "");
      if (!std::exchange(live->executes, true)) context_.listener.running(live->number);
      if (settle_by_record(live, false)) return;
      if (fs::exists(live->folder / "kill.json")) tell_to_end(live, true);
      return;
    case slurm::Phase::over:
      if (!settle_by_record(live, true)) settle_without_record(live, row->state);
  }
}

// slurmctld keeps a job that has ended for some minutes (MinJobAge). What it does not know any more sacct may know.
void SlurmExecutor::forgotten(const LivePtr& live) {
  if (settle_by_record(live, true)) return;
  if (live->place.job == 0) {
    // Its submission was cut off before sbatch had it. Whatever went wrong: a supervisor that finds another's trace leaves.
    if (fs::exists(live->folder / "kill.json")) return settle_without_record(live, "CANCELLED");
    live->place.task = 0;
    return submit(std::make_shared<Batch>(Batch{live}));
  }
  run_command(context_.io, slurm::sacct(live->place), "", kCommandTime, [this, live](const CommandResult& result) {
    if (live->ended || live->settled) return;
    const auto job = result.code == 0 ? slurm::accounted(result.out) : std::nullopt;
    guarded(live, [&] {
      if (!settle_by_record(live, true)) settle_without_record(live, job ? job->state : "");
    });
  });
}

// True when the exit record settles it. `over`: Slurm says that nothing of it executes any more.
bool SlurmExecutor::settle_by_record(const LivePtr& live, bool over_in_slurm) {
  if (live->ended || live->settled) return true;
  const auto record = read_exit(live->folder);
  if (!record) return false;
  const bool asked = fs::exists(live->folder / "kill.json");
  // Killed, and nobody here asked for it: cancelled, preempted or requeued, which only Slurm can say.
  if (by_signal_from_outside(*record) && !asked) {
    if (!over_in_slurm) return false;
    if (live->state == "COMPLETED" || live->state.empty()) over(live, *record, record->ended);
    else over(live, slurm::without_record(live->state, live->place.id(), ""), record->ended);
    return true;
  }
  over(live, *record, record->ended);
  return true;
}

void SlurmExecutor::settle_without_record(const LivePtr& live, const std::string& state) {
  const auto kill = read_kill(live->folder);
  const bool began = fs::exists(live->folder / "supervisor.json");
  if (began && ++live->looks_without_record < kLooksWithoutRecord) return;
  over(live, slurm::without_record(state, live->place.id(), kill ? kill->by : ""), unix_now());
}

void SlurmExecutor::over(const LivePtr& live, const Ending& ending, double when) {
  if (!accounting_ || live->place.job == 0) return finish(live, ending, when);
  live->settled = true;
  ask_accounting(live, ending, when, kAccountingLooks);
}

// Our exit record comes before Slurm has seen the job's end, and its accounting hears of that last.
void SlurmExecutor::ask_accounting(const LivePtr& live, const Ending& ending, double when, int looks) {
  run_command(context_.io, slurm::sacct(live->place), "", kCommandTime, [=, this](const CommandResult& result) {
    const auto job = result.code == 0 ? slurm::accounted(result.out) : std::nullopt;
    if (result.code != 0 && result.err.find("accounting storage is disabled") != std::string::npos) {
      accounting_ = false;
    } else if (!job && looks > 1) {
      const auto timer = std::make_shared<asio::steady_timer>(context_.io, kAccountingEvery);
      return timer->async_wait([=, this](const asio::error_code& error) {
        [[maybe_unused]] const auto kept = timer;
        if (!error) ask_accounting(live, ending, when, looks - 1);
      });
    } else if (!job) {
      context_.log->warn("run {}: accounting does not know how job {} ended: {}", live->number, live->place.id(),
                         first_line(result.err));
    }
    live->settled = false;   // what fails now is tried again with the next look
    guarded(live, [&] {
      if (job) support::LineWriter(live->folder / "events.jsonl").write(slurm::event_line(live->place, *job, when));
      finish(live, ending, when);
    });
  });
}

void SlurmExecutor::finish(const LivePtr& live, const Ending& ending, double when) {
  if (!context_.listener.ended(live->number, ending, when)) {
    asio::post(context_.io, [this, live, ending, when] {
      if (!live->ended) guarded(live, [&] { finish(live, ending, when); });
    });
    return;
  }
  live->ended = true;
  // The next attempt may be here already, started by what ended() decided.
  if (const auto found = live_.find(live->number); found != live_.end() && found->second == live) live_.erase(found);
}

// ---- ending and pausing ---------------------------------------------------------------------------------------------

void SlurmExecutor::end(std::int64_t number, const KillRequest&) {
  if (live_.count(number) != 0) look_soon(0);   // what squeue says decides how
}

void SlurmExecutor::tell_to_end(const LivePtr& live, bool runs) {
  const auto now = std::chrono::steady_clock::now();
  std::vector<std::string> words = {"scancel"};
  if (runs) {
    // The supervisor ends its trainer as kill.json says. Once it is long past the grace it was given, Slurm does it.
    const auto kill = read_kill(live->folder);
    const bool first = live->told == std::chrono::steady_clock::time_point{};
    const std::chrono::duration<double> patience(first ? 0 : (kill ? kill->grace : 0) + 30);
    if (!first && now - live->told < patience) return;
    live->told = now;
    if (first) words.insert(words.end(), {"--batch", "--signal=TERM"});
  } else if (std::exchange(live->cancelled, true)) {
    return;
  }
  words.push_back(live->place.id());
  run_command(context_.io, words, "", kCommandTime, [this, live](const CommandResult& result) {
    if (result.code != 0) {
      context_.log->warn("run {}: scancel {}: {}", live->number, live->place.id(), first_line(result.err));
      live->cancelled = false;
      live->told = {};
    }
    look_soon(0.2);
  });
}

bool SlurmExecutor::pause(std::int64_t number, bool) {
  const auto found = live_.find(number);
  if (found == live_.end() || !found->second->executes) return false;
  // pause.json says what is wanted; SIGCHLD only wakes the supervisor, which looks for it.
  run_command(context_.io, {"scancel", "--batch", "--signal=CHLD", found->second->place.id()}, "", kCommandTime,
              [](const CommandResult&) {});
  return true;
}

std::string SlurmExecutor::where(std::int64_t number) const {
  const auto found = live_.find(number);
  if (found == live_.end() || found->second->place.job == 0) return "";
  const Live& live = *found->second;
  return "Slurm job " + live.place.id() + (live.nodes.empty() ? "" : " on " + live.nodes);
}

// A fault in the care of one run (disk full, a file that is not JSON) must neither end the daemon nor the run's care: the
// next look comes.
void SlurmExecutor::guarded(const LivePtr& live, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& fault) {
    context_.log->error("run {}: {}", live->number, fault.what());
    look_soon(kTryAgain);
  }
}

}  // namespace assay::runner

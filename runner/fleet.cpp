#include "runner/fleet.h"

#include <spdlog/spdlog.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "runner/attempts.h"
#include "runner/fleet_live.h"
#include "runner/ingest.h"
#include "runner/process.h"

namespace assay::runner {
namespace {

using nlohmann::json;
using registry::StateKind;

constexpr auto kDiskEvery = std::chrono::seconds(5);   // while it is nearly full

std::string gibibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", bytes / (1 << 30));
  return text;
}

}  // namespace

Fleet::Fleet(asio::io_context& io, registry::Registry& registry, Paths paths, Resources resources, int log_fd,
             std::shared_ptr<spdlog::logger> log, std::function<void(std::int64_t)> changed)
    : io_(io), registry_(registry), paths_(std::move(paths)), disk_reserve_(resources.disk_reserve),
      briefest_(resources.briefest), log_(std::move(log)),
      changed_(std::move(changed)), executors_(make_executors({io_, *this, paths_, log_fd, log_})),
      ingest_timer_(std::make_unique<Timer>(io)), apply_timer_(std::make_unique<Timer>(io)),
      due_timer_(std::make_unique<Timer>(io)), disk_timer_(std::make_unique<Timer>(io)), spare_(paths_.data / ".next-run") {
  queue_.machine = std::move(resources.machine);
  queue_.limits = registry_.groups();
}

Fleet::~Fleet() = default;

struct Fleet::Parsed {
  std::string text;
  json config;
};

// One series is added again and again, and its runs differ in little else than their numbers.
const json& Fleet::parsed(const std::string& config) {
  if (!parsed_ || parsed_->text != config) parsed_ = std::make_unique<Parsed>(Parsed{config, json::parse(config)});
  return parsed_->config;
}

std::map<std::int64_t, std::string> Fleet::waits() const {
  std::map<std::int64_t, std::string> texts = runner::waits(queue_, unix_now());
  for (const auto& [number, live] : live_)
    if (!live->waits.empty()) texts[number] = live->waits;
  return texts;
}

std::map<std::int64_t, std::string> Fleet::places() const {
  std::map<std::int64_t, std::string> places;
  for (const auto& [number, live] : live_)
    if (std::string where = live->executor.where(number); !where.empty()) places[number] = std::move(where);
  return places;
}

Executor& Fleet::executor_of(const json& config) const {
  // Runs frozen before there was a choice have no such key.
  const std::string name = config.at("schedule").value("executor", "local");
  const auto found = executors_.find(name);
  if (found == executors_.end())
    throw std::invalid_argument("schedule.executor: this assay has no executor '" + name + "'; set it to \"local\"");
  return *found->second;
}

std::shared_ptr<Fleet::Live> Fleet::make_live(const registry::RunRow& row) {
  const json& config = parsed(row.config_json);
  auto live = std::make_shared<Live>(registry_, row, executor_of(config),
                                     config.at("train").at("steps").get<std::int64_t>());
  live->command_trainer = config.at("trainer").at("kind") == "command";
  return live;
}

Job Fleet::job_of(std::int64_t number, const json& config, const std::string& series, const std::string& group) const {
  const json& schedule = config.at("schedule");
  const json& train = config.at("train");
  Job job;
  job.number = number;
  job.series = series;
  job.group = group;
  job.demand.here = executor_of(config).uses_this_machine();
  if (!job.demand.here) {
    job.demand.cores = 0;
    return job;
  }
  job.demand.cores = train.at("threads").get<int>() * train.value("ranks", 1);   // of all its ranks
  job.demand.memory = schedule.value("memory", std::int64_t{0});
  job.demand.gpus = std::max(schedule.value("gpus", 0), train.value("device", "cpu") == "cuda" ? train.value("ranks", 1) : 0);
  return job;
}

Job Fleet::job_of(const registry::RunRow& row) const {
  Job job = job_of(row.number, json::parse(row.config_json), row.series, row.group);
  job.priority = row.priority;
  job.held = row.held;
  job.not_before = row.not_before;
  return job;
}

void Fleet::refuse_what_never_fits(const std::string& what, const json& config) const {
  const Executor& executor = executor_of(config);
  if (const std::string refused = executor.refusal(config); !refused.empty())
    throw std::invalid_argument(what + ": " + refused);
  const std::string never = never_fits(job_of(0, config, "", "").demand, queue_.machine);
  if (!never.empty())
    throw std::invalid_argument(what + ": it needs " + never +
                                "; lower train.threads, train.ranks, schedule.memory or schedule.gpus, or start the daemon with more "
                                "(`assay daemon --help`)");
}

// Of `after`, those that have not ended. With `success`, those that ended without it stay in and are told in `failed`.
std::set<std::int64_t> Fleet::unfinished(const std::vector<std::int64_t>& after, bool success,
                                         std::set<std::int64_t>* failed) const {
  std::set<std::int64_t> open;
  for (const std::int64_t run : after) {
    if (states_.count(run) == 0) {
      if (!success) continue;
      const auto other = registry_.run(run);
      if (other && other->state.kind == StateKind::succeeded) continue;
      failed->insert(run);
    }
    open.insert(run);
  }
  return open;
}

void Fleet::restore(std::function<void()> done) {
  restored_ = std::move(done);
  registry::Registry::RunFilter filter;
  filter.states = {StateKind::starting, StateKind::running, StateKind::queued, StateKind::blocked};
  const std::vector<registry::RunRow> rows = registry_.runs(filter);
  for (const registry::RunRow& row : rows) states_[row.number] = row.state.kind;

  event::Submitted waiting;
  for (const registry::RunRow& found : rows) {
    finish_edit(found);
    const registry::RunRow row = registry_.run(found.number).value();
    Job job = job_of(row);
    if (row.state.kind == StateKind::starting || row.state.kind == StateKind::running) {
      const std::vector<int> gpus = read_launch(row.folder).gpus;
      advance(queue_, event::Active{job, {gpus.begin(), gpus.end()}}, unix_now());
      live_[row.number] = make_live(row);
      continue;
    }
    job.after = unfinished(row.after, true, &waiting.failed);
    job.after_any = unfinished(row.after_any, false, nullptr);
    if (row.state.kind == StateKind::blocked && job.after.empty() && job.after_any.empty())
      move(row.number, {StateKind::queued, {}, {}, ""}, 0);
    waiting.jobs.push_back(std::move(job));
  }
  log_->info("{} runs taken up: {} started before, {} waiting", rows.size(), live_.size(), waiting.jobs.size());
  look_at_disk();
  // The waiting first: they must be there to hear how those they wait for have ended.
  happened(waiting);
  for (const registry::RunRow& row : rows)
    if (row.state.kind == StateKind::starting || row.state.kind == StateKind::running) {
      unadopted_.insert(row.number);
      restoring_.insert(row.number);
    }
  schedule_ingest();
  asio::post(io_, [this] { adopt_next(); });
}

// One, then whoever asks something has his turn.
void Fleet::adopt_next() {
  if (unadopted_.empty()) return tell_restored();
  adopt(*unadopted_.begin());
  asio::post(io_, [this] { adopt_next(); });
}

// Nothing when it has been.
void Fleet::adopt(std::int64_t number) {
  if (unadopted_.erase(number) == 0) return;
  const auto found = live_.find(number);
  if (found == live_.end()) return;
  const std::shared_ptr<Live> live = found->second;
  const registry::RunRow row = registry_.run(number).value();
  live->executor.adopt({row, read_launch(row.folder).gpus});
  if (live_.count(number) == 0 || live->ending) return;
  if (row.held) live->executor.pause(number, true);
  restoring_.erase(number);
}

void Fleet::tell_restored() {
  if (unadopted_.empty() && restoring_.empty() && restored_) std::exchange(restored_, {})();
}

void Fleet::happened(const Event& event) {
  for (Action& action : advance(queue_, event, unix_now())) undone_.push_back(std::move(action));
  if (!applying_) apply();
  set_timers();
}

// Nothing starts with less free than the reserve: a full disk fails every run at once.
void Fleet::look_at_disk() {
  struct statvfs disk {};
  if (disk_reserve_ <= 0 || ::statvfs(paths_.data.c_str(), &disk) != 0) return;
  const double free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  const std::string why = free >= disk_reserve_ ? ""
                                                : "disk space (" + gibibytes(free) + " free in " + paths_.data.string() +
                                                      ", " + gibibytes(disk_reserve_) + " are kept free)";
  if (why.empty() == queue_.closed.empty()) return;
  log_->warn("{}", why.empty() ? "there is disk space again: runs start" : "nothing starts: " + why);
  happened(event::Closed{why});
}

void Fleet::set_timers() {
  if (const auto due = next_due(queue_)) {
    due_timer_->expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
        std::chrono::duration<double>(std::clamp(*due - unix_now(), 0.0, 60.0) + 0.001)));
    due_timer_->async_wait([this](const asio::error_code& error) {
      if (!error) happened(event::Tick{});
    });
  }
  if (!queue_.closed.empty()) {
    disk_timer_->expires_after(kDiskEvery);
    disk_timer_->async_wait([this](const asio::error_code& error) {
      if (error) return;
      look_at_disk();
      set_timers();
    });
  }
}

// In order, and none is dropped: when the registry cannot take one (disk full), it is tried again in a second.
void Fleet::apply() {
  applying_ = true;
  while (!undone_.empty()) {
    const Action action = undone_.front();
    try {
      apply_one(action);
      undone_.pop_front();
    } catch (const std::exception& fault) {
      log_->error("the queue: {}", fault.what());
      apply_later();
      break;
    }
  }
  applying_ = false;
  start_decided();
}

void Fleet::apply_later() {
  apply_timer_->expires_after(std::chrono::seconds(1));
  apply_timer_->async_wait([this](const asio::error_code& error) {
    if (!error) apply();
  });
}

void Fleet::apply_one(const Action& action) {
  const auto ended = [&](std::int64_t number) { return states_.count(number) == 0; };
  const double now = unix_now();
  if (const auto* begin = std::get_if<action::Start>(&action)) {
    if (!ended(begin->number) && !drained_) start(*begin);
  } else if (const auto* block = std::get_if<action::Block>(&action)) {
    if (!ended(block->number))
      move(block->number, {StateKind::blocked, {}, {}, "run " + std::to_string(block->on)}, now);
  } else if (const auto* unblock = std::get_if<action::Unblock>(&action)) {
    if (!ended(unblock->number)) move(unblock->number, {StateKind::queued, {}, {}, ""}, now);
  } else {
    const auto& skip = std::get<action::Skip>(action);
    if (ended(skip.number)) return;
    const std::string why = "run " + std::to_string(skip.because) + " did not succeed";
    move(skip.number, {StateKind::skipped, {}, {}, why}, now);
    log_->info("run {} skipped: {}", skip.number, why);
  }
}

void Fleet::move(std::int64_t number, const registry::State& next, double now) {
  record_state(number, next, now);
  moved(number, next);
}

void Fleet::record_state(std::int64_t number, const registry::State& next, double now) {
  const auto state = states_.find(number);
  if (state == states_.end()) throw std::logic_error("run " + std::to_string(number) + " has already ended");
  if (!registry_.transition(number, state->second, next, now))
    throw std::logic_error("run " + std::to_string(number) + " is not " + registry::name(state->second) +
                           " in the registry");
}

// Once that is committed: whoever is told looks at once.
void Fleet::moved(std::int64_t number, const registry::State& next) {
  if (registry::is_final(next.kind)) states_.erase(number);
  else states_[number] = next.kind;
  changed_(number);
}

void Fleet::drain(const KillRequest& request, std::function<void()> done) {
  drained_ = std::move(done);
  std::vector<std::int64_t> numbers;
  for (const auto& [number, live] : live_) numbers.push_back(number);
  if (numbers.empty()) asio::post(io_, drained_);
  kill(numbers, request);
}

void Fleet::schedule_ingest() {
  if (ingesting_ || live_.empty()) return;
  ingesting_ = true;
  // Often enough that a point shows within a tenth of a second; with many runs less often, as each round has its price.
  ingest_timer_->expires_after(std::chrono::milliseconds(std::min<std::size_t>(30 + live_.size(), 90)));
  ingest_timer_->async_wait([this](const asio::error_code& error) {
    ingesting_ = false;
    if (error) return;
    ingest_all();
    schedule_ingest();
  });
}

// One transaction, and one durable write, for all runs.
void Fleet::ingest_all() {
  std::map<std::int64_t, std::shared_ptr<Live>> fresh;
  std::vector<std::int64_t> changed;
  for (const auto& [number, live] : live_)
    if (live->ingest.anything_new()) fresh.emplace(number, live);
  if (fresh.empty()) return;
  try {
    registry_.batch([&] {
      for (const auto& [number, live] : fresh) {
        try {
          if (live->ingest.poll()) changed.push_back(number);
        } catch (const std::exception& fault) {
          log_->error("run {}: reading its folder: {}", number, fault.what());  // tried again at the next turn
        }
      }
    });
  } catch (const std::exception& fault) {
    log_->error("reading run folders: {}", fault.what());
    for (const auto& [number, live] : fresh) live->ingest.forget();
    return;
  }
  for (const std::int64_t number : changed) changed_(number);
}

}  // namespace assay::runner

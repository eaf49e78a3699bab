#include "runner/scheduler.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace assay::runner {
namespace {

using Place = Queue::Place;

Queue::Kind kind_of(const Job& job) { return {job.priority, job.series, job.group, job.demand}; }

int weight(const Demand& demand) { return demand.here ? std::max(1, demand.cores) : 1; }

// Which of these a run is in when it is not active.
Place place_of(const Job& job, double now) {
  if (!job.after.empty() || !job.after_any.empty()) return Place::blocked;
  if (job.held) return Place::held;
  return job.not_before > now ? Place::delayed : Place::waiting;
}

std::int64_t blocked_on(const Job& job) { return job.after.empty() ? *job.after_any.begin() : *job.after.begin(); }

// Into the index its place belongs to, and out of it.
void enter(Queue& queue, Queue::Entry& entry, double now) {
  const Job& job = entry.job;
  entry.place = place_of(job, now);
  for (const auto* list : {&job.after, &job.after_any})
    for (const std::int64_t dependency : *list) queue.waiting_for[dependency].insert(job.number);
  if (entry.place == Place::waiting) queue.waiting[kind_of(job)].insert(job.number);
  if (entry.place == Place::delayed) queue.delayed.emplace(job.not_before, job.number);
}

void leave(Queue& queue, const Queue::Entry& entry) {
  const Job& job = entry.job;
  for (const auto* list : {&job.after, &job.after_any})
    for (const std::int64_t dependency : *list) {
      const auto waiters = queue.waiting_for.find(dependency);
      if (waiters == queue.waiting_for.end()) continue;
      waiters->second.erase(job.number);
      if (waiters->second.empty()) queue.waiting_for.erase(waiters);
    }
  if (entry.place == Place::waiting) {
    const auto list = queue.waiting.find(kind_of(job));
    list->second.erase(job.number);
    if (list->second.empty()) queue.waiting.erase(list);
  }
  if (entry.place == Place::delayed) queue.delayed.erase({job.not_before, job.number});
}

void add_to(std::map<std::string, int>& counts, const std::string& name, int n) {
  int& count = counts[name];
  count += n;
  if (count == 0) counts.erase(name);
}

void occupy(Queue& queue, Queue::Entry& entry, std::set<int> gpus) {
  const Demand& demand = entry.job.demand;
  entry.place = Place::active;
  entry.gpus = std::move(gpus);
  if (demand.here) {
    queue.cores_used += demand.cores;
    queue.memory_used += demand.memory;
    queue.gpus_used.insert(entry.gpus.begin(), entry.gpus.end());
  }
  add_to(queue.series_used, entry.job.series, weight(demand));
  if (!entry.job.group.empty()) add_to(queue.group_active, entry.job.group, 1);
}

void release(Queue& queue, Queue::Entry& entry) {
  const Demand& demand = entry.job.demand;
  if (demand.here) {
    queue.cores_used -= demand.cores;
    queue.memory_used -= demand.memory;
    for (const int gpu : entry.gpus) queue.gpus_used.erase(gpu);
  }
  add_to(queue.series_used, entry.job.series, -weight(demand));
  if (!entry.job.group.empty()) add_to(queue.group_active, entry.job.group, -1);
  entry.gpus.clear();
}

// Takes a run out, whatever its place; those it kept waiting are still listed under its number.
bool remove(Queue& queue, std::int64_t number) {
  const auto found = queue.entries.find(number);
  if (found == queue.entries.end()) return false;
  if (found->second.place == Place::active) release(queue, found->second);
  else leave(queue, found->second);
  queue.entries.erase(found);
  return true;
}

void settle_dependents(Queue& queue, std::int64_t ended, bool succeeded, double now, std::vector<Action>& actions) {
  std::vector<std::pair<std::int64_t, bool>> open{{ended, succeeded}};
  while (!open.empty()) {
    const auto [number, good] = open.back();
    open.pop_back();
    const auto list = queue.waiting_for.find(number);
    if (list == queue.waiting_for.end()) continue;
    const std::set<std::int64_t> dependents = list->second;
    for (const std::int64_t dependent : dependents) {
      Queue::Entry& entry = queue.entries.at(dependent);
      if (!good && entry.job.after.count(number) != 0) {
        remove(queue, dependent);
        actions.push_back(action::Skip{dependent, number});
        open.emplace_back(dependent, false);
        continue;
      }
      leave(queue, entry);
      entry.job.after.erase(number);
      entry.job.after_any.erase(number);
      enter(queue, entry, now);
      if (entry.place == Place::blocked) actions.push_back(action::Block{dependent, blocked_on(entry.job)});
      else actions.push_back(action::Unblock{dependent});
    }
  }
}

struct Room {
  int cores;
  std::int64_t memory;
  int gpus;
  // More may be set aside than there is: who needs none of a thing does not mind.
  bool holds(const Demand& demand) const {
    return !demand.here || (demand.cores <= cores && (demand.memory == 0 || demand.memory <= memory) &&
                            (demand.gpus == 0 || demand.gpus <= gpus));
  }
  void take(const Demand& demand) {
    if (!demand.here) return;
    cores -= demand.cores;
    memory -= demand.memory;
    gpus -= demand.gpus;
  }
};

Room room_of(const Queue& queue) {
  return {queue.machine.cores - queue.cores_used, queue.machine.memory - queue.memory_used,
          static_cast<int>(queue.machine.gpus.size() - queue.gpus_used.size())};
}

int active_in(const Queue& queue, const std::string& group) {
  const auto found = queue.group_active.find(group);
  return found == queue.group_active.end() ? 0 : found->second;
}

bool group_full(const Queue& queue, const std::string& group) {
  const auto limit = queue.limits.find(group);
  return !group.empty() && limit != queue.limits.end() && active_in(queue, group) >= limit->second;
}

using Waiting = std::pair<const Queue::Kind, std::set<std::int64_t>>;

// The kinds of waiting runs, the one whose first run is next first.
std::vector<const Waiting*> in_order(const Queue& queue) {
  std::vector<const Waiting*> kinds;
  for (const Waiting& kind : queue.waiting) kinds.push_back(&kind);
  const auto key = [&](const Waiting* kind) {
    const auto used = queue.series_used.find(kind->first.series);
    return std::tuple(-kind->first.priority, used == queue.series_used.end() ? 0 : used->second, *kind->second.begin());
  };
  std::sort(kinds.begin(), kinds.end(), [&](const Waiting* a, const Waiting* b) { return key(a) < key(b); });
  return kinds;
}

// The next run to start. Every kind that there is no room for keeps its share of what is left.
std::optional<std::int64_t> next(const Queue& queue) {
  Room room = room_of(queue);
  for (const Waiting* kind : in_order(queue)) {
    const Demand& demand = kind->first.demand;
    if (group_full(queue, kind->first.group)) continue;
    if (demand.here && (!queue.closed.empty() || !never_fits(demand, queue.machine).empty())) continue;
    if (room.holds(demand)) return *kind->second.begin();
    room.take(demand);
  }
  return std::nullopt;
}

void start_what_fits(Queue& queue, std::vector<Action>& actions) {
  while (const auto number = next(queue)) {
    Queue::Entry& entry = queue.entries.at(*number);
    std::set<int> gpus;
    if (entry.job.demand.here)
      for (const int gpu : queue.machine.gpus) {
        if (static_cast<int>(gpus.size()) == entry.job.demand.gpus) break;
        if (queue.gpus_used.count(gpu) == 0) gpus.insert(gpu);
      }
    leave(queue, entry);
    occupy(queue, entry, gpus);
    actions.push_back(action::Start{*number, {gpus.begin(), gpus.end()}});
  }
}

void wake_the_due(Queue& queue, double now) {
  while (!queue.delayed.empty() && queue.delayed.begin()->first <= now) {
    Queue::Entry& entry = queue.entries.at(queue.delayed.begin()->second);
    leave(queue, entry);
    entry.job.not_before = 0;
    enter(queue, entry, now);
  }
}

void submit(Queue& queue, const event::Submitted& submitted, double now, std::vector<Action>& actions) {
  std::set<std::int64_t> failed = submitted.failed;
  for (const Job& job : submitted.jobs) {
    assert(queue.entries.count(job.number) == 0);
    const auto bad = std::find_if(job.after.begin(), job.after.end(), [&](std::int64_t on) { return failed.count(on) != 0; });
    if (bad != job.after.end()) {
      actions.push_back(action::Skip{job.number, *bad});
      failed.insert(job.number);  // a later job of the same command may wait for it
      continue;
    }
    Queue::Entry entry{job, Place::waiting, {}};
    // Of those of the same command that were skipped just now, only the end was waited for, and it has come.
    for (const std::int64_t on : job.after_any)
      if (failed.count(on) != 0) entry.job.after_any.erase(on);
    enter(queue, entry, now);
    if (entry.place == Place::blocked) actions.push_back(action::Block{job.number, blocked_on(entry.job)});
    queue.entries.emplace(job.number, std::move(entry));
  }
}

void edit(Queue& queue, const Job& job, double now, std::vector<Action>& actions) {
  const auto found = queue.entries.find(job.number);
  if (found == queue.entries.end() || found->second.place == Place::active) return;
  Queue::Entry& entry = found->second;
  const bool was_blocked = entry.place == Place::blocked;
  leave(queue, entry);
  entry.job = job;
  enter(queue, entry, now);
  if (entry.place == Place::blocked) actions.push_back(action::Block{job.number, blocked_on(entry.job)});
  else if (was_blocked) actions.push_back(action::Unblock{job.number});
}

std::string of(std::int64_t used, std::int64_t all) { return std::to_string(used) + " of " + std::to_string(all); }

std::string count(std::int64_t n, const char* one, const char* many) {
  return n == 1 ? std::string("a ") + one : std::to_string(n) + " " + many;
}

std::string list(const std::set<std::int64_t>& numbers) {
  std::string text = numbers.size() == 1 ? "run " : "runs ";
  const char* separator = "";
  for (const std::int64_t number : numbers) {
    text += separator + std::to_string(number);
    separator = ", ";
  }
  return text;
}

// What a waiting run lacks of the machine; {before, after} the words on how many are first.
std::pair<std::string, std::string> lacks(const Demand& demand, const Queue& queue, const Room& room) {
  const Machine& machine = queue.machine;
  if (demand.cores > room.cores)
    return {count(demand.cores, "core", "cores") + " (" + of(queue.cores_used, machine.cores) + " in use", ")"};
  if (demand.memory > 0 && demand.memory > room.memory)
    return {std::to_string(demand.memory) + " MiB of memory (" + of(queue.memory_used, machine.memory) + " given away", ")"};
  return {count(demand.gpus, "GPU", "GPUs") + " (" +
              of(static_cast<std::int64_t>(queue.gpus_used.size()), static_cast<std::int64_t>(machine.gpus.size())) + " in use",
          ")"};
}

}  // namespace

std::vector<Action> advance(Queue& queue, const Event& event, double now) {
  std::vector<Action> actions;
  if (const auto* submitted = std::get_if<event::Submitted>(&event)) {
    submit(queue, *submitted, now, actions);
  } else if (const auto* active = std::get_if<event::Active>(&event)) {
    assert(queue.entries.count(active->job.number) == 0);
    Queue::Entry& entry = queue.entries[active->job.number];
    entry.job = active->job;
    entry.job.after.clear();
    entry.job.after_any.clear();
    occupy(queue, entry, active->gpus);
    return actions;  // the daemon is still telling what it found; it submits, and thereby starts, the rest afterwards
  } else if (const auto* ended = std::get_if<event::Ended>(&event)) {
    if (!remove(queue, ended->number)) return actions;
    settle_dependents(queue, ended->number, ended->succeeded, now, actions);
  } else if (const auto* retry = std::get_if<event::Retry>(&event)) {
    const auto found = queue.entries.find(retry->number);
    if (found == queue.entries.end() || found->second.place != Place::active) return actions;
    release(queue, found->second);
    found->second.job.not_before = retry->not_before;
    found->second.job.held = retry->held;
    enter(queue, found->second, now);
  } else if (const auto* edited = std::get_if<event::Edited>(&event)) {
    edit(queue, edited->job, now, actions);
  } else if (const auto* limited = std::get_if<event::Limited>(&event)) {
    if (limited->limit) queue.limits[limited->group] = *limited->limit;
    else queue.limits.erase(limited->group);
  } else if (const auto* closed = std::get_if<event::Closed>(&event)) {
    queue.closed = closed->why;
  }
  wake_the_due(queue, now);
  start_what_fits(queue, actions);
  return actions;
}

std::optional<double> next_due(const Queue& queue) {
  if (queue.delayed.empty()) return std::nullopt;
  return queue.delayed.begin()->first;
}

std::vector<std::int64_t> circle(const Queue& queue, std::int64_t number, const std::set<std::int64_t>& after) {
  std::map<std::int64_t, std::int64_t> came_from;   // run -> the one that waits for it
  std::vector<std::int64_t> open;
  for (const std::int64_t first : after)
    if (came_from.emplace(first, 0).second) open.push_back(first);
  while (!open.empty()) {
    const std::int64_t run = open.back();
    open.pop_back();
    if (run == number) {
      std::vector<std::int64_t> way;
      for (std::int64_t at = run; at != 0; at = came_from.at(at)) way.push_back(at);
      std::reverse(way.begin(), way.end());
      return way;
    }
    const auto found = queue.entries.find(run);
    if (found == queue.entries.end()) continue;
    for (const auto* list : {&found->second.job.after, &found->second.job.after_any})
      for (const std::int64_t on : *list)
        if (came_from.emplace(on, run).second) open.push_back(on);
  }
  return {};
}

std::string never_fits(const Demand& demand, const Machine& machine) {
  if (!demand.here) return "";
  const auto text = [](const std::string& needed, std::int64_t have, const std::string& from) {
    const std::string number = have == 0 ? "none" : std::to_string(have);
    if (from.empty()) return needed + ", and this machine has " + number;
    return needed + ", and the daemon may give " + number + " (started with " + from + ")";
  };
  const auto gpus = static_cast<int>(machine.gpus.size());
  if (demand.cores > machine.cores) return text(count(demand.cores, "core", "cores"), machine.cores, machine.cores_from);
  if (demand.memory > machine.memory)
    return text(std::to_string(demand.memory) + " MiB of memory", machine.memory, machine.memory_from);
  if (demand.gpus > gpus) return text(count(demand.gpus, "GPU", "GPUs"), gpus, machine.gpus_from);
  return "";
}

std::map<std::int64_t, std::string> waits(const Queue& queue, double now) {
  std::map<std::int64_t, std::string> texts;
  for (const auto& [number, entry] : queue.entries) {
    const Job& job = entry.job;
    if (entry.place == Place::blocked) {
      std::string text = job.after.empty() ? "" : list(job.after);
      if (!job.after_any.empty()) text += (text.empty() ? "the end of " : " and the end of ") + list(job.after_any);
      texts.emplace(number, std::move(text));
    } else if (entry.place == Place::held) {
      texts.emplace(number, "`assay resume " + std::to_string(number) + "`");
    } else if (entry.place == Place::delayed) {
      texts.emplace(number, "its next try, in " + std::to_string(static_cast<std::int64_t>(
                                                      std::ceil(std::max(0.0, job.not_before - now)))) + " s");
    }
  }
  // In the order in which they would start if nothing else came; the room shrinks as it does when they are looked at.
  Room room = room_of(queue);
  std::vector<std::pair<std::tuple<std::int64_t, int, std::int64_t>, std::pair<std::string, std::string>>> waiting;
  for (const Waiting* kind : in_order(queue)) {
    const auto& [priority, series, group, demand] = kind->first;
    const auto used = queue.series_used.find(series);
    const int share = used == queue.series_used.end() ? 0 : used->second;
    std::string text;
    if (group_full(queue, group)) {
      text = "group " + group + " (" + of(active_in(queue, group), queue.limits.at(group)) + " running)";
    } else if (const std::string never = never_fits(demand, queue.machine); !never.empty()) {
      text = never + "; start the daemon with more, or `assay kill` it";
    } else if (demand.here && !queue.closed.empty()) {
      text = queue.closed;
    }
    if (!text.empty()) {
      for (const std::int64_t number : kind->second) texts.emplace(number, text);
      continue;
    }
    const auto words = lacks(demand, queue, room);
    for (const std::int64_t number : kind->second) waiting.push_back({{-priority, share, number}, words});
    room.take(demand);
  }
  std::sort(waiting.begin(), waiting.end());
  std::size_t before = 0;
  for (const auto& [key, words] : waiting) {
    std::string text = words.first;
    if (before > 0) text += ", " + std::to_string(before) + (before == 1 ? " run first" : " runs first");
    texts.emplace(std::get<2>(key), text + words.second);
    ++before;
  }
  return texts;
}

}  // namespace assay::runner

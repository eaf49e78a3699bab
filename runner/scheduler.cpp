#include "runner/scheduler.h"

#include <algorithm>
#include <cassert>

namespace assay::runner {
namespace {

int slots(const Job& job, int capacity) { return std::clamp(job.cores, 1, capacity); }

std::pair<std::int64_t, std::int64_t> key(const Job& job) { return {-job.priority, job.number}; }

void submit(Queue& queue, const Job& job, const std::set<std::int64_t>& failed, std::vector<Action>& actions,
            std::vector<std::int64_t>& skipped) {
  assert(queue.entries.count(job.number) == 0);
  for (const std::int64_t dependency : job.after)
    if (failed.count(dependency) != 0) {
      actions.push_back(action::Skip{job.number, dependency});
      skipped.push_back(job.number);
      return;
    }
  Queue::Entry entry{job, Queue::Place::waiting};
  if (job.after.empty()) {
    queue.order.insert(key(job));
  } else {
    entry.place = Queue::Place::blocked;
    for (const std::int64_t dependency : job.after) queue.waiting_for[dependency].insert(job.number);
    actions.push_back(action::Block{job.number, *job.after.begin()});
  }
  queue.entries.emplace(job.number, std::move(entry));
}

// Takes a run out, whatever its place; those it kept waiting are still listed under its number.
bool remove(Queue& queue, std::int64_t number, int capacity) {
  const auto found = queue.entries.find(number);
  if (found == queue.entries.end()) return false;
  const Queue::Entry& entry = found->second;
  if (entry.place == Queue::Place::active) queue.used -= slots(entry.job, capacity);
  if (entry.place == Queue::Place::waiting) queue.order.erase(key(entry.job));
  for (const std::int64_t dependency : entry.job.after) {
    const auto list = queue.waiting_for.find(dependency);
    if (list == queue.waiting_for.end()) continue;
    list->second.erase(number);
    if (list->second.empty()) queue.waiting_for.erase(list);
  }
  queue.entries.erase(found);
  return true;
}

void settle_dependents(Queue& queue, std::int64_t ended, bool succeeded, int capacity, std::vector<Action>& actions) {
  std::vector<std::pair<std::int64_t, bool>> open{{ended, succeeded}};
  while (!open.empty()) {
    const auto [number, good] = open.back();
    open.pop_back();
    const auto list = queue.waiting_for.find(number);
    if (list == queue.waiting_for.end()) continue;
    const std::set<std::int64_t> dependents = std::move(list->second);
    queue.waiting_for.erase(list);
    for (const std::int64_t dependent : dependents) {
      if (!good) {
        remove(queue, dependent, capacity);
        actions.push_back(action::Skip{dependent, number});
        open.emplace_back(dependent, false);
        continue;
      }
      Queue::Entry& entry = queue.entries.at(dependent);
      entry.job.after.erase(number);
      if (entry.job.after.empty()) {
        entry.place = Queue::Place::waiting;
        queue.order.insert(key(entry.job));
        actions.push_back(action::Unblock{dependent});
      } else {
        actions.push_back(action::Block{dependent, *entry.job.after.begin()});
      }
    }
  }
}

void start_what_fits(Queue& queue, int capacity, std::vector<Action>& actions) {
  while (!queue.order.empty()) {
    Queue::Entry& entry = queue.entries.at(queue.order.begin()->second);
    if (queue.used + slots(entry.job, capacity) > capacity) return;
    queue.order.erase(queue.order.begin());
    queue.used += slots(entry.job, capacity);
    entry.place = Queue::Place::active;
    actions.push_back(action::Start{entry.job.number});
  }
}

}  // namespace

std::vector<Action> advance(Queue& queue, const Event& event, int capacity) {
  assert(capacity >= 1);
  std::vector<Action> actions;
  if (const auto* submitted = std::get_if<event::Submitted>(&event)) {
    std::set<std::int64_t> failed = submitted->failed;
    for (const Job& job : submitted->jobs) {
      std::vector<std::int64_t> skipped;
      submit(queue, job, failed, actions, skipped);
      failed.insert(skipped.begin(), skipped.end());  // a later job of the same command may wait for it
    }
  } else if (const auto* active = std::get_if<event::Active>(&event)) {
    assert(queue.entries.count(active->job.number) == 0);
    queue.used += slots(active->job, capacity);
    Job job = active->job;
    job.after.clear();
    queue.entries.emplace(job.number, Queue::Entry{job, Queue::Place::active});
    return actions;  // the daemon is still telling what it found; it submits, and thereby starts, the rest afterwards
  } else {
    const auto& ended = std::get<event::Ended>(event);
    if (!remove(queue, ended.number, capacity)) return actions;
    settle_dependents(queue, ended.number, ended.succeeded, capacity, actions);
  }
  start_what_fits(queue, capacity, actions);
  return actions;
}

std::map<std::int64_t, std::string> waits(const Queue& queue, int capacity) {
  std::map<std::int64_t, std::string> texts;
  for (const auto& [number, entry] : queue.entries) {
    if (entry.place != Queue::Place::blocked) continue;
    std::string text = entry.job.after.size() == 1 ? "run " : "runs ";
    const char* separator = "";
    for (const std::int64_t dependency : entry.job.after) {
      text += separator + std::to_string(dependency);
      separator = ", ";
    }
    texts.emplace(number, std::move(text));
  }
  const std::string use = std::to_string(queue.used) + " of " + std::to_string(capacity) + " in use";
  std::size_t before = 0;
  for (const auto& [priority, number] : queue.order) {
    const int needed = slots(queue.entries.at(number).job, capacity);
    std::string text = (needed == 1 ? std::string("a core") : std::to_string(needed) + " cores") + " (" + use;
    if (before > 0) text += ", " + std::to_string(before) + (before == 1 ? " run first" : " runs first");
    texts.emplace(number, text + ")");
    ++before;
  }
  return texts;
}

}  // namespace assay::runner

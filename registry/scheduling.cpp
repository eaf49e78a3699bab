// What the queue keeps beside the states: groups, holds, retries, edits.
#include <chrono>
#include <stdexcept>

#include "registry/connection.h"
#include "registry/journal.h"

namespace assay::registry {
namespace {

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

void Registry::edit_run(std::int64_t number, const RunEdit& edit) {
  impl_->write([&] {
    if (!impl_->exists("SELECT 1 FROM runs WHERE number = ?1", number))
      throw std::invalid_argument("there is no run " + std::to_string(number));
    // A null leaves the column as it is.
    const auto flag = [](const std::optional<bool>& value) {
      return value ? std::optional<int>(*value ? 1 : 0) : std::nullopt;
    };
    {
      Use use(impl_->statement("UPDATE runs SET priority = ifnull(?2, priority), queue_group = ifnull(?3, queue_group), "
                               "held = ifnull(?4, held), not_before = ifnull(?5, not_before), hidden = ifnull(?6, hidden), "
                               "config_sha256 = ifnull(?7, config_sha256) WHERE number = ?1"));
      use.bind(number, edit.priority, edit.group, flag(edit.held), edit.not_before, flag(edit.hidden),
               edit.config ? std::optional(edit.config->config_sha256) : std::nullopt).run();
    }
    if (edit.config) {
      Use use(impl_->statement("UPDATE run_texts SET config_json = ?2, derived_json = ?3, run_json = ?4 WHERE run = ?1"));
      use.bind(number, edit.config->config_json, edit.config->derived_json, edit.config->run_json).run();
    }
    if (edit.after || edit.after_any) put_dependencies(number, edit.after, edit.after_any);
    const bool places = edit.priority || edit.group || edit.after || edit.after_any;
    if (!places && !edit.held && !edit.hidden && !edit.not_before) return;
    const auto row = run(number);
    StateLine line{unix_now(), row->attempt, row->state, row->priority, row->after, row->group, row->after_any};
    line.held = edit.held;
    line.hidden = edit.hidden;
    line.not_before = edit.not_before;
    append_state(row->folder, line, places, false);
  });
}

void Registry::put_dependencies(std::int64_t number, const std::optional<std::vector<std::int64_t>>& after,
                                const std::optional<std::vector<std::int64_t>>& after_any) {
  const auto put = [&](const std::vector<std::int64_t>& list, int any_end) {
    {
      Use use(impl_->statement("DELETE FROM run_dependencies WHERE run = ?1 AND any_end = ?2"));
      use.bind(number, any_end).run();
    }
    for (const std::int64_t on : list) {
      if (on == number || !impl_->exists("SELECT 1 FROM runs WHERE number = ?1", on))
        throw std::invalid_argument("run " + std::to_string(number) + " is to wait for run " + std::to_string(on) +
                                    (on == number ? ", which is itself" : ", which does not exist"));
      Use use(impl_->statement("INSERT INTO run_dependencies(run, position, after, any_end) SELECT ?1, "
                               "ifnull(max(position) + 1, 0), ?2, ?3 FROM run_dependencies WHERE run = ?1"));
      use.bind(number, on, any_end).run();
    }
  };
  if (after) put(*after, 0);
  if (after_any) put(*after_any, 1);
}

void Registry::set_group(const std::string& name, std::optional<int> slots) {
  impl_->write([&] {
    if (slots) {
      Use use(impl_->statement("INSERT INTO queue_groups(name, slots) VALUES (?1, ?2) ON CONFLICT(name) DO UPDATE SET "
                               "slots = excluded.slots"));
      use.bind(name, *slots).run();
    } else {
      Use use(impl_->statement("DELETE FROM queue_groups WHERE name = ?1"));
      use.bind(name).run();
    }
  });
}

std::map<std::string, int> Registry::groups() const {
  return impl_->read([&] {
    std::map<std::string, int> limits;
    Use use(impl_->statement("SELECT name, slots FROM queue_groups"));
    while (use.step()) limits[use.text(0)] = static_cast<int>(use.integer(1));
    return limits;
  });
}

void Registry::forget_progress(std::int64_t run) {
  impl_->write([&] {
    for (const char* sql : {"DELETE FROM metric_lines WHERE run = ?1", "DELETE FROM evaluations WHERE run = ?1",
                            "DELETE FROM events WHERE run = ?1", "DELETE FROM progress WHERE run = ?1",
                            "DELETE FROM ingested WHERE run = ?1"}) {
      Use use(impl_->statement(sql));
      use.bind(run).run();
    }
  });
}

}  // namespace assay::registry

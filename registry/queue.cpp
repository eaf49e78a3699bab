// Series, runs, their states and attempts.
#include <array>
#include <chrono>
#include <sstream>
#include <stdexcept>

#include "registry/connection.h"
#include "registry/journal.h"

namespace assay::registry {
namespace {

// On disk, frozen. In the order of StateKind.
constexpr std::array<const char*, 10> kStateNames = {"queued", "blocked", "starting", "running", "succeeded",
                                                     "failed", "killed",  "lost",     "stalled", "skipped"};

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

StateKind state_from_disk(const std::string& name) {
  if (const auto kind = parse_state(name)) return *kind;
  throw std::runtime_error("the registry holds a run state that is not known: " + name);
}

// The columns of a RunRow; `texts` adds the long ones.
std::string select_runs(bool texts) {
  std::string sql =
      "SELECT number, series, r.run, seed, batch, folder, config_sha256, priority, state, exit_code, signal, detail, "
      "attempt, created, started, ended, "
      "(SELECT group_concat(after) FROM (SELECT after FROM run_dependencies d WHERE d.run = number AND NOT any_end "
      "ORDER BY position)), "
      "(SELECT group_concat(after) FROM (SELECT after FROM run_dependencies d WHERE d.run = number AND any_end "
      "ORDER BY position)), "
      "queue_group, held, hidden, not_before, fault";
  if (texts) sql += ", config_json, derived_json, run_json";
  sql += " FROM runs r";
  if (texts) sql += " JOIN run_texts t ON t.run = number";
  return sql;
}

RunRow run_row(const Use& row, bool texts) {
  RunRow run;
  run.number = row.integer(0);
  run.series = row.text(1);
  run.run = row.text(2);
  run.seed = row.integer(3);
  run.batch = row.text(4);
  run.folder = row.text(5);
  run.config_sha256 = row.text(6);
  run.priority = row.integer(7);
  run.state = {state_from_disk(row.text(8)), row.int_or_null(9), row.int_or_null(10), row.text(11)};
  run.attempt = row.integer(12);
  run.created = row.real(13);
  run.started = row.real(14);  // NULL reads as 0
  run.ended = row.real(15);
  const auto numbers = [&](int column, std::vector<std::int64_t>& list) {
    std::istringstream text(row.text(column));
    for (std::string number; std::getline(text, number, ',');) list.push_back(std::stoll(number));
  };
  numbers(16, run.after);
  numbers(17, run.after_any);
  run.group = row.text(18);
  run.held = row.integer(19) != 0;
  run.hidden = row.integer(20) != 0;
  run.not_before = row.real(21);
  run.state.fault = row.text(22);
  if (texts) {
    run.config_json = row.text(23);
    run.derived_json = row.text(24);
    run.run_json = row.text(25);
  }
  return run;
}

}  // namespace

const char* name(StateKind kind) { return kStateNames.at(static_cast<std::size_t>(kind)); }

std::optional<StateKind> parse_state(const std::string& name) {
  for (std::size_t i = 0; i < kStateNames.size(); ++i)
    if (name == kStateNames[i]) return static_cast<StateKind>(i);
  return std::nullopt;
}

bool is_final(StateKind kind) {
  switch (kind) {
    case StateKind::queued:
    case StateKind::blocked:
    case StateKind::starting:
    case StateKind::running: return false;
    case StateKind::succeeded:
    case StateKind::failed:
    case StateKind::killed:
    case StateKind::lost:
    case StateKind::stalled:
    case StateKind::skipped: return true;
  }
  return true;
}

void Registry::put_series(const SeriesRow& series) {
  impl_->write([&] {
    {  // each submission brings it again; writing the same costs a wait for the disk
      Use use(impl_->statement("SELECT title, goal, json FROM series WHERE id = ?1"));
      if (use.bind(series.id).step() && use.text(0) == series.title && use.text(1) == series.goal && use.text(2) == series.json) return;
    }
    Use use(impl_->statement("INSERT INTO series(id, title, goal, json) VALUES (?1, ?2, ?3, ?4) ON CONFLICT(id) DO "
                             "UPDATE SET title = excluded.title, goal = excluded.goal, json = excluded.json"));
    use.bind(series.id, series.title, series.goal, series.json).run();
  });
}

std::optional<SeriesRow> Registry::series(const std::string& id) const {
  return impl_->read([&]() -> std::optional<SeriesRow> {
    Use use(impl_->statement("SELECT id, title, goal, json FROM series WHERE id = ?1"));
    if (!use.bind(id).step()) return std::nullopt;
    return SeriesRow{use.text(0), use.text(1), use.text(2), use.text(3)};
  });
}

std::vector<SeriesRow> Registry::all_series() const {
  return impl_->read([&] {
    std::vector<SeriesRow> rows;
    Use use(impl_->statement("SELECT id, title, goal, json FROM series ORDER BY id"));
    while (use.step()) rows.push_back({use.text(0), use.text(1), use.text(2), use.text(3)});
    return rows;
  });
}

std::vector<std::int64_t> Registry::add_runs(
    const std::vector<NewRun>& runs, const std::function<std::string(std::int64_t, const NewRun&)>& make_folder) {
  return impl_->write([&] {
    std::vector<std::int64_t> numbers;
    const double now = unix_now();
    for (const NewRun& run : runs) {
      // What AUTOINCREMENT is about to give, so that the row is written once and with its folder.
      std::int64_t number = 1;
      {
        Use use(impl_->statement("SELECT seq + 1 FROM sqlite_sequence WHERE name = 'runs'"));
        if (use.step()) number = use.integer(0);
      }
      const std::string folder = make_folder(number, run);
      try {
        Use use(impl_->statement("INSERT INTO runs(number, series, run, seed, batch, folder, config_sha256, priority, queue_group, "
                                 "state, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'queued', ?10)"));
        use.bind(number, run.series, run.run, run.seed, run.batch, folder, run.config_sha256, run.priority, run.group, now).run();
      } catch (const SQLite::Exception&) {   // of the row's two references to what else there is, one does not hold
        if (!impl_->exists("SELECT 1 FROM series WHERE id = ?1", run.series))
          throw std::invalid_argument("run " + run.run + " belongs to series " + run.series + ", which is not in the registry");
        if (impl_->exists("SELECT 1 FROM runs WHERE folder = ?1", folder))
          throw std::invalid_argument("the folder " + folder + " already belongs to another run");
        throw;
      }
      {
        Use use(impl_->statement("INSERT INTO run_texts(run, config_json, derived_json, run_json, code_json, "
                                 "environment_json, inputs_json) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"));
        use.bind(number, run.config_json, run.derived_json, run.run_json, run.code_json, run.environment_json,
                 run.inputs_json).run();
      }
      if (!run.after.empty() || !run.after_any.empty()) put_dependencies(number, run.after, run.after_any);
      append_state(folder, {now, 0, {StateKind::queued, {}, {}, ""}, run.priority, run.after, run.group, run.after_any}, true,
                   false);
      numbers.push_back(number);
    }
    return numbers;
  });
}

std::optional<RunRow> Registry::run(std::int64_t number) const {
  return impl_->read([&]() -> std::optional<RunRow> {
    static const std::string sql = select_runs(true) + " WHERE number = ?1";
    Use use(impl_->statement(sql));
    if (!use.bind(number).step()) return std::nullopt;
    return run_row(use, true);
  });
}

std::vector<RunRow> Registry::runs(const RunFilter& filter) const {
  std::string where;
  const auto also = [&](const std::string& condition) { where += (where.empty() ? " WHERE " : " AND ") + condition; };
  if (filter.series) also("series = ?");
  if (filter.run) also("r.run = ?");
  if (filter.batch) also("batch = ?");
  if (filter.seed) also("seed = ?");
  if (!filter.hidden) also("NOT hidden");
  if (!filter.states.empty()) {
    std::string names;  // words of ours, never the user's: they may stand in the text
    for (const StateKind kind : filter.states) names += (names.empty() ? "'" : ", '") + std::string(name(kind)) + "'";
    also("state IN (" + names + ")");
  }
  std::string sql = select_runs(filter.texts) + where + " ORDER BY number";
  if (filter.limit > 0) sql += " DESC LIMIT ?";
  return impl_->read([&] {
    Use use(impl_->statement(sql));
    if (filter.series) use.bind_next(*filter.series);
    if (filter.run) use.bind_next(*filter.run);
    if (filter.batch) use.bind_next(*filter.batch);
    if (filter.seed) use.bind_next(*filter.seed);
    if (filter.limit > 0) use.bind_next(filter.limit);
    std::vector<RunRow> rows;
    while (use.step()) rows.push_back(run_row(use, filter.texts));
    return rows;
  });
}

std::vector<std::int64_t> Registry::newest_of_series(const std::string& series) const {
  return impl_->read([&] {
    std::vector<std::int64_t> numbers;
    Use use(impl_->statement("SELECT max(number) FROM runs WHERE series = ?1 GROUP BY run, seed ORDER BY 1"));
    use.bind(series);
    while (use.step()) numbers.push_back(use.integer(0));
    return numbers;
  });
}

std::optional<std::string> Registry::latest_batch(const std::string& series) const {
  return impl_->read([&]() -> std::optional<std::string> {
    Use use(impl_->statement("SELECT batch FROM runs WHERE series = ?1 ORDER BY number DESC LIMIT 1"));
    if (!use.bind(series).step()) return std::nullopt;
    return use.text(0);
  });
}

bool Registry::transition(std::int64_t number, StateKind expected, const State& next, double now) {
  return impl_->write([&] {
    const bool starting = next.kind == StateKind::starting;
    const bool waiting = next.kind == StateKind::queued || next.kind == StateKind::blocked;
    {
      Use use(impl_->statement(
          "UPDATE runs SET state = ?3, exit_code = ?4, signal = ?5, detail = ?6, fault = ?11, attempt = attempt + ?7, "
          "started = CASE WHEN ?7 THEN ?10 WHEN ?8 THEN NULL ELSE started END, "
          "ended = CASE WHEN ?9 THEN ?10 ELSE NULL END WHERE number = ?1 AND state = ?2"));
      use.bind(number, name(expected), name(next.kind), next.exit_code, next.signal, next.detail, starting, waiting,
               is_final(next.kind), now, next.fault);
      if (use.run() == 0) {
        if (!impl_->exists("SELECT 1 FROM runs WHERE number = ?1", number))
          throw std::invalid_argument("there is no run " + std::to_string(number));
        return false;
      }
    }
    if (starting) {
      Use use(impl_->statement("INSERT INTO attempts(run, attempt, state, started, detail) "
                               "SELECT number, attempt, state, ?2, detail FROM runs WHERE number = ?1"));
      use.bind(number, now).run();
    } else if (!waiting) {
      // The attempt's own record: kept when a retry sets the run back. A run that never started has none.
      Use use(impl_->statement("UPDATE attempts SET state = ?2, exit_code = ?3, signal = ?4, detail = ?5, fault = ?9, "
                               "ended = CASE WHEN ?6 THEN ?7 ELSE NULL END "
                               "WHERE run = ?1 AND attempt = (SELECT attempt FROM runs WHERE number = ?1) AND ?8"));
      const bool ran = expected != StateKind::queued && expected != StateKind::blocked;
      use.bind(number, name(next.kind), next.exit_code, next.signal, next.detail, is_final(next.kind), now, ran, next.fault)
          .run();
    }
    Use use(impl_->statement("SELECT folder, attempt FROM runs WHERE number = ?1"));
    use.bind(number).step();
    const std::filesystem::path folder = use.text(0);
    // How a run ended is in exit.json already, which is synced; that it never started, or was lost, stands only here.
    append_state(folder, {now, use.integer(1), next, 0, {}, "", {}}, false,
                 is_final(next.kind) && !std::filesystem::exists(folder / "exit.json"));
    return true;
  });
}

std::vector<Attempt> Registry::attempts(std::int64_t run) const {
  return impl_->read([&] {
    std::vector<Attempt> rows;
    Use use(impl_->statement("SELECT attempt, state, exit_code, signal, detail, started, ended, fault FROM attempts "
                             "WHERE run = ?1 ORDER BY attempt"));
    use.bind(run);
    while (use.step())
      rows.push_back({use.integer(0),
                      {state_from_disk(use.text(1)), use.int_or_null(2), use.int_or_null(3), use.text(4), use.text(7)},
                      use.real(5), use.real(6)});
    return rows;
  });
}

std::optional<RunFacts> Registry::facts(std::int64_t run) const {
  return impl_->read([&]() -> std::optional<RunFacts> {
    Use use(impl_->statement("SELECT code_json, environment_json, inputs_json FROM run_texts WHERE run = ?1"));
    if (!use.bind(run).step()) return std::nullopt;
    return RunFacts{use.text(0), use.text(1), use.text(2)};
  });
}

}  // namespace assay::registry

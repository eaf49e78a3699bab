// Looking after the file: checks, a copy while it is in use, runs put back by a rebuild.
#include <SQLiteCpp/Backup.h>
#include <sqlite3.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "registry/connection.h"
#include "registry/schema.h"
#include "support/files.h"

namespace assay::registry {

std::vector<std::string> Registry::problems() const {
  return impl_->read([&] {
    std::vector<std::string> found;
    {
      Use check(impl_->statement("PRAGMA integrity_check"));
      while (check.step())
        if (check.text(0) != "ok") found.push_back(check.text(0));
    }
    Use keys(impl_->statement("PRAGMA foreign_key_check"));
    while (keys.step())
      found.push_back("a row of " + keys.text(0) + " refers to a row of " + keys.text(2) + " that is not there");
    return found;
  });
}

std::vector<std::string> Registry::quick_problems() const {
  return impl_->read([&] {
    std::vector<std::string> tables, found;
    {
      // The two tables that grow with steps and problems are left to problems().
      Use use(impl_->statement("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                               "AND name NOT IN ('metric_lines', 'outcomes') ORDER BY name"));
      while (use.step()) tables.push_back(use.text(0));
    }
    for (const std::string& table : tables) {
      Use check(impl_->statement("PRAGMA quick_check(" + table + ")"));
      while (check.step())
        if (check.text(0) != "ok") found.push_back(table + ": " + check.text(0));
    }
    return found;
  });
}

void Registry::back_up(const std::filesystem::path& copy) const {
  const std::filesystem::path temporary = copy.string() + ".tmp." + std::to_string(::getpid());
  const auto remove_temporary = [&] {
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
      std::error_code ignored;
      std::filesystem::remove(temporary.string() + suffix, ignored);
    }
  };
  if (std::filesystem::exists(copy)) throw std::runtime_error(copy.string() + ": is there already");
  remove_temporary();
  try {
    {
      SQLite::Database to(temporary.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, kBusyTimeoutMs);
      SQLite::Backup backup(to, impl_->database);
      // All pages in one step: the copy is of one moment, whatever the daemon writes meanwhile.
      if (backup.executeStep(-1) != SQLITE_DONE) throw std::runtime_error(copy.string() + ": the copy was not finished");
    }
    {
      // The copy carries the mark of write-ahead logging; without it, it opens from a read-only medium as well.
      SQLite::Database made(temporary.string(), SQLite::OPEN_READWRITE, kBusyTimeoutMs);
      made.exec("PRAGMA journal_mode = DELETE");
      const std::string answer = made.execAndGet("PRAGMA quick_check").getString();
      if (answer != "ok") throw std::runtime_error(copy.string() + ": the copy is damaged: " + answer);
    }
    if (::link(temporary.c_str(), copy.c_str()) != 0)
      throw std::runtime_error(copy.string() + ": " + std::strerror(errno));
  } catch (const SQLite::Exception& error) {
    remove_temporary();
    throw std::runtime_error(copy.string() + ": " + error.what());
  } catch (...) {
    remove_temporary();
    throw;
  }
  remove_temporary();
  support::sync_folder(copy.has_parent_path() ? copy.parent_path() : std::filesystem::path("."));
}

void Registry::restore_run(const RunRow& row, const RunFacts& facts, const std::vector<Attempt>& attempts) {
  const auto or_null = [](double time) { return time == 0 ? std::optional<double>() : std::optional(time); };
  impl_->write([&] {
    {
      Use use(impl_->statement(
          "INSERT INTO runs(number, series, run, seed, batch, folder, config_sha256, priority, state, exit_code, signal, "
          "detail, attempt, created, started, ended, queue_group, fault, held, hidden, not_before) "
          "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)"));
      use.bind(row.number, row.series, row.run, row.seed, row.batch, row.folder, row.config_sha256, row.priority,
               name(row.state.kind), row.state.exit_code, row.state.signal, row.state.detail, row.attempt, row.created,
               or_null(row.started), or_null(row.ended), row.group, row.state.fault,
               row.held, row.hidden, row.not_before).run();
    }
    {
      Use use(impl_->statement("INSERT INTO run_texts(run, config_json, derived_json, run_json, code_json, "
                               "environment_json, inputs_json) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"));
      use.bind(row.number, row.config_json, row.derived_json, row.run_json, facts.code_json, facts.environment_json,
               facts.inputs_json).run();
    }
    put_dependencies(row.number, row.after, row.after_any);
    for (const Attempt& attempt : attempts) {
      Use use(impl_->statement("INSERT INTO attempts(run, attempt, state, exit_code, signal, detail, started, ended, fault) "
                               "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"));
      use.bind(row.number, attempt.attempt, name(attempt.state.kind), attempt.state.exit_code, attempt.state.signal,
               attempt.state.detail, attempt.started, or_null(attempt.ended), attempt.state.fault).run();
    }
  });
}

}  // namespace assay::registry

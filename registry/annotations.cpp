// Records: what was said about a series, a run id or a run. Added, never changed.
#include <algorithm>
#include <array>
#include <stdexcept>

#include "registry/connection.h"

namespace assay::registry {
namespace {

constexpr std::array<const char*, 7> kKinds = {"hypothesis", "note",  "tag",   "verdict",
                                               "conclusion", "cause", "verify"};

// Every record beside the highest version of its key.
constexpr const char* kSelect =
    "SELECT series, ifnull(run, 0), run_id, kind, subject, version, withdrawn, time, author, source, text, data, "
    "max(version) OVER (PARTITION BY series, ifnull(run, 0), run_id, kind, subject) FROM records ";
// Not by id: a rebuilt registry has read the same files in another order.
constexpr const char* kOrder = " ORDER BY time, ifnull(run, 0), series, line_end";

std::vector<Record> read_rows(Use& use) {
  std::vector<Record> rows;
  while (use.step()) {
    Record row;
    row.series = use.text(0);
    row.run = use.integer(1);
    row.run_id = use.text(2);
    row.kind = use.text(3);
    row.subject = use.text(4);
    row.version = use.integer(5);
    row.withdrawn = use.integer(6) != 0;
    row.time = use.real(7);
    row.author = use.text(8);
    row.source = use.text(9);
    row.text = use.text(10);
    row.data_json = use.text(11);
    row.newest = row.version == use.integer(12);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

bool is_record_kind(const std::string& kind) { return std::find(kKinds.begin(), kKinds.end(), kind) != kKinds.end(); }

std::optional<Record> Registry::put_record(const Record& record, std::int64_t line_end) {
  if (!is_record_kind(record.kind)) throw std::invalid_argument("there is no kind of record '" + record.kind + "'");
  return impl_->write([&]() -> std::optional<Record> {
    Record row = record;
    if (row.run != 0) {
      Use use(impl_->statement("SELECT series, run FROM runs WHERE number = ?1"));
      if (!use.bind(row.run).step()) throw std::invalid_argument("there is no run " + std::to_string(row.run));
      row.series = use.text(0);
      row.run_id = use.text(1);
    } else if (!impl_->exists("SELECT 1 FROM series WHERE id = ?1", row.series)) {
      throw std::invalid_argument("there is no series '" + row.series + "'");
    }
    {
      Use use(impl_->statement("SELECT 1 FROM records WHERE series = ?1 AND ifnull(run, 0) = ?2 AND line_end = ?3"));
      if (use.bind(row.series, row.run, line_end).step()) return std::nullopt;
    }
    if (row.kind == "note" && row.subject.empty()) {
      Use use(impl_->statement("SELECT count(DISTINCT subject) FROM records WHERE series = ?1 AND ifnull(run, 0) = ?2 "
                               "AND run_id = ?3 AND kind = 'note'"));
      use.bind(row.series, row.run, row.run_id).step();
      row.subject = std::to_string(use.integer(0) + 1);
    }
    {
      Use use(impl_->statement("SELECT count(*) FROM records WHERE series = ?1 AND ifnull(run, 0) = ?2 AND run_id = ?3 "
                               "AND kind = ?4 AND subject = ?5"));
      use.bind(row.series, row.run, row.run_id, row.kind, row.subject).step();
      row.version = use.integer(0) + 1;
    }
    Use use(impl_->statement(
        "INSERT INTO records(series, run, line_end, run_id, kind, subject, version, withdrawn, time, author, source, "
        "text, data) VALUES (?1, nullif(?2, 0), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"));
    use.bind(row.series, row.run, line_end, row.run_id, row.kind, row.subject, row.version, row.withdrawn, row.time,
             row.author, row.source, row.text, row.data_json.empty() ? std::string("{}") : row.data_json).run();
    row.newest = true;
    return row;
  });
}

std::int64_t Registry::recorded_bytes(const std::string& series, std::int64_t run) const {
  return impl_->read([&] {
    Use use(impl_->statement("SELECT ifnull(max(line_end), 0) FROM records WHERE series = ?1 AND ifnull(run, 0) = ?2"));
    use.bind(series, run).step();
    return use.integer(0);
  });
}

std::vector<Record> Registry::records_of_run(std::int64_t run) const {
  return impl_->read([&] {
    static const std::string sql = std::string(kSelect) +
                                   "WHERE run = ?1 OR (run IS NULL AND run_id <> '' AND (series, run_id) = "
                                   "(SELECT series, r.run FROM runs r WHERE number = ?1))" + kOrder;
    Use use(impl_->statement(sql));
    use.bind(run);
    return read_rows(use);
  });
}

std::vector<Record> Registry::records_of_series(const std::string& series) const {
  return impl_->read([&] {
    static const std::string sql = std::string(kSelect) + "WHERE series = ?1" + kOrder;
    Use use(impl_->statement(sql));
    use.bind(series);
    return read_rows(use);
  });
}

}  // namespace assay::registry

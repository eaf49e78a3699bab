#include "registry/listing.h"

#include <algorithm>
#include <stdexcept>

#include "registry/connection.h"

namespace assay::registry {
namespace {

// What the rows are put in order by; words of ours only, never a user's.
const char* expression(ListQuery::Order order) {
  switch (order) {
    case ListQuery::Order::active:
    case ListQuery::Order::number: return "r.number";
    case ListQuery::Order::run: return "r.run";
    case ListQuery::Order::series: return "r.series";
    case ListQuery::Order::state: return "r.state";
    case ListQuery::Order::score: return "p.score";
    case ListQuery::Order::accuracy: return "p.accuracy";
    case ListQuery::Order::created: return "r.created";
    case ListQuery::Order::started: return "r.started";
    case ListQuery::Order::took: return "(r.ended - r.started)";
  }
  throw std::invalid_argument("a list has an order that is not known");
}

// As the partial index runs_unfinished has it, word for word: only then is it used.
constexpr const char* kActive = "r.state IN ('queued', 'blocked', 'starting', 'running')";

std::string order_by(const ListQuery& query) {
  return std::string(" ORDER BY ") + expression(query.order) + (query.descending ? " DESC NULLS LAST" : " ASC NULLS LAST") +
         ", r.number DESC";
}

// Part of a LIKE pattern that means itself.
std::string escaped(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    if (c == '%' || c == '_' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

struct Listing::Impl {
  std::filesystem::path path;
  SQLite::Database database;
  std::map<std::string, std::unique_ptr<SQLite::Statement>> statements;   // kept: each is compiled once
  std::map<StateKind, std::int64_t> counts;                               // count_by_state()'s last answer,
  std::int64_t counted_at = -1;                                           // and SQLite's data_version before it

  explicit Impl(const std::filesystem::path& file) : path(file), database(file.string(), SQLite::OPEN_READONLY, 60'000) {}

  SQLite::Statement& statement(const std::string& sql) {
    auto& kept = statements[sql];
    if (!kept) kept = std::make_unique<SQLite::Statement>(database, sql);
    return *kept;
  }
  template <typename Body>
  auto read(const Body& body) {
    try {
      return body();
    } catch (const SQLite::Exception& error) {
      throw std::runtime_error(path.string() + ": " + error.what());
    }
  }
};

Listing::Listing(const std::filesystem::path& file) {
  try {
    impl_ = std::make_unique<Impl>(file);
  } catch (const SQLite::Exception& error) {
    throw std::runtime_error(file.string() + ": " + error.what());
  }
}

Listing::~Listing() = default;
Listing::Listing(Listing&&) noexcept = default;

RunList Listing::list(const ListQuery& query) const {
  // Only what is asked for is a condition: a row need not be read to be counted without one. ?3, never null, is there so
  // that each statement has parameters up to it.
  std::string where = " WHERE ?3 IS NOT NULL";
  if (!query.series.empty()) where += " AND r.series = ?1";
  if (!query.text.empty())
    where += " AND (r.run LIKE ?3 ESCAPE '\\' OR r.series LIKE ?3 ESCAPE '\\' OR CAST(r.number AS TEXT) = ?2)";
  if (!query.states.empty()) {
    std::string names;
    for (const StateKind kind : query.states) names += (names.empty() ? "'" : ", '") + std::string(name(kind)) + "'";
    where += " AND r.state IN (" + names + ")";
  }
  const std::string pattern = "%" + escaped(query.text) + "%";
  const bool by_progress = query.order == ListQuery::Order::score || query.order == ListQuery::Order::accuracy;
  const std::string from = "SELECT r.number FROM runs r" + std::string(by_progress ? " LEFT JOIN progress p ON p.run = r.number" : "");
  return impl_->read([&] {
    RunList list;
    const auto count = [&](const std::string& condition) {
      Use use(impl_->statement("SELECT count(*) FROM runs r" + condition));
      use.bind(query.series, query.text, pattern).step();
      return use.integer(0);
    };
    const auto take = [&](const std::string& rest, std::int64_t limit, std::int64_t offset) {
      if (limit <= 0) return;
      Use use(impl_->statement(from + rest + " LIMIT ?4 OFFSET ?5"));
      use.bind(query.series, query.text, pattern, limit, offset);
      while (use.step()) list.numbers.push_back(use.integer(0));
    };
    list.total = count(where);
    if (query.order != ListQuery::Order::active) {
      take(where + order_by(query), query.limit, query.offset);
      return list;
    }
    // Two lists, one behind the other: what is under way, of which there is little, and the rest in the order it lies in.
    const std::string under_way = where + " AND " + kActive, ended = where + " AND NOT " + kActive;
    const std::int64_t first = count(under_way);
    if (query.offset < first)
      take(under_way + " ORDER BY CASE r.state WHEN 'running' THEN 0 WHEN 'starting' THEN 1 WHEN 'queued' THEN 2 ELSE 3 END, r.number" +
               (query.descending ? " DESC" : " ASC"),
           query.limit, query.offset);
    take(ended + " ORDER BY r.number" + (query.descending ? " DESC" : " ASC"),
         query.limit - static_cast<std::int64_t>(list.numbers.size()), std::max<std::int64_t>(0, query.offset - first));
    return list;
  });
}

std::map<StateKind, std::int64_t> Listing::count_by_state() const {
  return impl_->read([&] {
    // The same number says that nobody has written since.
    Use version(impl_->statement("PRAGMA data_version"));
    version.step();
    if (impl_->counted_at == version.integer(0)) return impl_->counts;
    // Counted here: SQLite would sort all rows to group them, which takes several times as long.
    std::map<std::string, std::int64_t> words;
    Use use(impl_->statement("SELECT state FROM runs"));
    while (use.step()) ++words[use.text(0)];
    std::map<StateKind, std::int64_t> counts;
    for (const auto& [word, count] : words)
      if (const auto kind = parse_state(word)) counts[*kind] = count;
    impl_->counts = counts;
    impl_->counted_at = version.integer(0);
    return counts;
  });
}

std::vector<SeriesCount> Listing::count_by_series() const {
  return impl_->read([&] {
    std::vector<SeriesCount> rows;
    Use use(impl_->statement(
        "SELECT s.id, s.title, s.goal, count(r.number), "
        "ifnull(sum(r.state IN ('queued', 'blocked', 'starting', 'running')), 0), ifnull(sum(r.state = 'succeeded'), 0), "
        "ifnull(max(r.created), 0) FROM series s LEFT JOIN runs r ON r.series = s.id GROUP BY s.id "
        "ORDER BY max(r.number) DESC NULLS LAST, s.id"));
    while (use.step())
      rows.push_back({use.text(0), use.text(1), use.text(2), use.integer(3), use.integer(4), use.integer(5), use.real(6)});
    return rows;
  });
}

}  // namespace assay::registry

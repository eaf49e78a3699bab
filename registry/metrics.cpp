// Metrics: one row a run and step, its points packed side by side. A row a point would cost SQLite ten times the work.
#include <SQLiteCpp/Exception.h>
#include <sqlite3.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string_view>

#include "registry/connection.h"
#include "registry/schema.h"

namespace assay::registry {
namespace {

// On disk, frozen: for each point, ascending by key, the key's number (uint32) and the value (IEEE double), both little-
// endian.
constexpr std::size_t kPoint = 12;

void pack(std::string& bytes, std::uint32_t key, double value) {
  char point[kPoint];
  auto bits = std::bit_cast<std::uint64_t>(value);
  for (int i = 0; i < 4; ++i) point[i] = static_cast<char>(key >> (8 * i));
  for (int i = 0; i < 8; ++i) point[4 + i] = static_cast<char>(bits >> (8 * i));
  bytes.append(point, kPoint);
}

std::uint32_t key_at(std::string_view bytes, std::size_t i) {
  std::uint32_t key = 0;
  for (int b = 3; b >= 0; --b) key = key << 8 | static_cast<unsigned char>(bytes[i * kPoint + static_cast<std::size_t>(b)]);
  return key;
}

double value_at(std::string_view bytes, std::size_t i) {
  std::uint64_t bits = 0;
  for (int b = 7; b >= 0; --b)
    bits = bits << 8 | static_cast<unsigned char>(bytes[i * kPoint + 4 + static_cast<std::size_t>(b)]);
  return std::bit_cast<double>(bits);
}

// The place of a key, or the number of points.
std::size_t find_key(std::string_view bytes, std::uint32_t key) {
  const std::size_t n = bytes.size() / kPoint;
  std::size_t low = 0, high = n;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (key_at(bytes, middle) < key) low = middle + 1;
    else high = middle;
  }
  return low < n && key_at(bytes, low) == key ? low : n;
}

using Values = std::vector<std::pair<std::int64_t, double>>;

// Ascending by key; of one that comes twice the last.
void sort_values(Values& values) {
  const auto before = [](const auto& a, const auto& b) { return a.first < b.first; };
  if (std::is_sorted(values.begin(), values.end(), [](const auto& a, const auto& b) { return a.first <= b.first; }) &&
      std::adjacent_find(values.begin(), values.end(), [](const auto& a, const auto& b) { return a.first == b.first; }) ==
          values.end())
    return;
  std::stable_sort(values.begin(), values.end(), before);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (kept > 0 && values[kept - 1].first == values[i].first) values[kept - 1] = values[i];
    else values[kept++] = values[i];
  }
  values.resize(kept);
}

std::string packed(const Values& values) {
  std::string bytes;
  bytes.reserve(values.size() * kPoint);
  for (const auto& [key, value] : values) pack(bytes, static_cast<std::uint32_t>(key), value);
  return bytes;
}

// ---- SQL functions, for migrations and for queries that want one metric ---------------------------------------------

// pack_points(key, value): the points of a group as one blob.
void pack_step(sqlite3_context* context, int, sqlite3_value** arguments) {
  auto** values = static_cast<std::map<std::int64_t, double>**>(sqlite3_aggregate_context(context, sizeof(void*)));
  if (values == nullptr) return sqlite3_result_error_nomem(context);
  if (*values == nullptr) *values = new std::map<std::int64_t, double>;
  (**values)[sqlite3_value_int64(arguments[0])] = sqlite3_value_type(arguments[1]) == SQLITE_NULL
                                                      ? std::numeric_limits<double>::quiet_NaN()
                                                      : sqlite3_value_double(arguments[1]);
}

void pack_final(sqlite3_context* context) {
  auto** values = static_cast<std::map<std::int64_t, double>**>(sqlite3_aggregate_context(context, 0));
  std::string bytes;
  if (values != nullptr && *values != nullptr) {
    for (const auto& [key, value] : **values) pack(bytes, static_cast<std::uint32_t>(key), value);
    delete *values;
  }
  sqlite3_result_blob64(context, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
}

}  // namespace

void add_functions(sqlite3* database) {
  const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
  if (sqlite3_create_function_v2(database, "pack_points", 2, flags, nullptr, nullptr, pack_step, pack_final, nullptr) !=
      SQLITE_OK)
    throw SQLite::Exception(database);
}

std::int64_t Registry::metric_key(const std::string& name) {
  return impl_->write_row([&] { return impl_->metric_key(name); });
}

void Registry::put_metric_line(std::int64_t run, std::int64_t step, std::vector<std::pair<std::int64_t, double>>& values) {
  sort_values(values);
  impl_->write_row([&] {
    std::string bytes = packed(values);
    {
      Use use(impl_->statement("INSERT INTO metric_lines(run, step, points) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING"));
      if (use.bind(run, step, Blob{bytes}).run() == 1) return;
    }
    // The step has a row: what was there and is not replaced stays.
    Values merged;
    {
      Use use(impl_->statement("SELECT points FROM metric_lines WHERE run = ?1 AND step = ?2"));
      use.bind(run, step).step();
      const std::string_view there = use.blob(0);
      for (std::size_t i = 0; i < there.size() / kPoint; ++i) merged.emplace_back(key_at(there, i), value_at(there, i));
    }
    merged.insert(merged.end(), values.begin(), values.end());
    sort_values(merged);
    bytes = packed(merged);
    Use use(impl_->statement("UPDATE metric_lines SET points = ?3 WHERE run = ?1 AND step = ?2"));
    use.bind(run, step, Blob{bytes}).run();
  });
}

void Registry::put_progress(std::int64_t run, const Progress& progress) {
  impl_->write_row([&] {
    Use use(impl_->statement(
        "INSERT INTO progress(run, step, total_steps, score, accuracy, last_time) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
        "ON CONFLICT DO UPDATE SET step = excluded.step, total_steps = excluded.total_steps, score = excluded.score, "
        "accuracy = excluded.accuracy, last_time = excluded.last_time"));
    use.bind(run, progress.step, progress.total_steps, progress.score, progress.accuracy, progress.last_time).run();
  });
}

void Registry::put_metrics(std::int64_t run, const std::vector<MetricPoint>& points, const Progress& progress) {
  impl_->write([&] {
    std::map<std::int64_t, Values> lines;
    for (const MetricPoint& point : points) lines[point.step].emplace_back(impl_->metric_key(point.key), point.value);
    for (auto& [step, values] : lines) put_metric_line(run, step, values);
    put_progress(run, progress);
  });
}

std::vector<MetricPoint> Registry::Impl::metrics(std::int64_t run, const std::optional<std::string>& key,
                                                 std::int64_t first_step) {
  return read([&] {
    std::vector<MetricPoint> points;
    std::map<std::uint32_t, std::string> names;
    {
      Use use(statement("SELECT id, name FROM metric_keys WHERE ?1 IS NULL OR name = ?1"));
      use.bind(key);
      while (use.step()) names.emplace(static_cast<std::uint32_t>(use.integer(0)), use.text(1));
    }
    if (key && names.empty()) return points;
    Use use(statement("SELECT step, points FROM metric_lines WHERE run = ?1 AND step >= ?2 ORDER BY step"));
    use.bind(run, first_step);
    while (use.step()) {
      const std::int64_t step = use.integer(0);
      const std::string_view bytes = use.blob(1);
      if (key) {
        const std::size_t i = find_key(bytes, names.begin()->first);
        if (i < bytes.size() / kPoint) points.push_back({step, *key, value_at(bytes, i)});
        continue;
      }
      const std::size_t begin = points.size();
      for (std::size_t i = 0; i < bytes.size() / kPoint; ++i) {
        const auto name = names.find(key_at(bytes, i));
        if (name == names.end()) throw std::runtime_error(file.string() + ": a metric has a number that names none");
        points.push_back({step, name->second, value_at(bytes, i)});
      }
      std::sort(points.begin() + static_cast<std::ptrdiff_t>(begin), points.end(),
                [](const MetricPoint& a, const MetricPoint& b) { return a.key < b.key; });
    }
    return points;
  });
}

std::vector<MetricPoint> Registry::metrics(std::int64_t run, const std::optional<std::string>& key) const {
  return impl_->metrics(run, key, std::numeric_limits<std::int64_t>::min());
}

std::vector<MetricPoint> Registry::metrics_since(std::int64_t run, std::int64_t first_step) const {
  return impl_->metrics(run, {}, first_step);
}

std::optional<double> Registry::last_value(std::int64_t run, const std::string& key) const {
  return impl_->read([&]() -> std::optional<double> {
    std::uint32_t number = 0;
    {
      Use use(impl_->statement("SELECT id FROM metric_keys WHERE name = ?1"));
      if (!use.bind(key).step()) return std::nullopt;
      number = static_cast<std::uint32_t>(use.integer(0));
    }
    Use use(impl_->statement("SELECT points FROM metric_lines WHERE run = ?1 ORDER BY step DESC"));
    use.bind(run);
    while (use.step()) {
      const std::string_view bytes = use.blob(0);
      if (const std::size_t i = find_key(bytes, number); i < bytes.size() / kPoint) return value_at(bytes, i);
    }
    return std::nullopt;
  });
}

std::vector<std::string> Registry::metric_names(std::int64_t run) const {
  return impl_->read([&] {
    std::set<std::uint32_t> keys;
    {
      Use use(impl_->statement("SELECT points FROM metric_lines WHERE run = ?1"));
      use.bind(run);
      while (use.step()) {
        const std::string_view bytes = use.blob(0);
        for (std::size_t i = 0; i < bytes.size() / kPoint; ++i) keys.insert(key_at(bytes, i));
      }
    }
    std::vector<std::string> names;
    Use use(impl_->statement("SELECT id, name FROM metric_keys ORDER BY name"));
    while (use.step())
      if (keys.contains(static_cast<std::uint32_t>(use.integer(0)))) names.push_back(use.text(1));
    return names;
  });
}

}  // namespace assay::registry

#include "registry/connection.h"

#include <stdexcept>
#include <utility>

#include "registry/schema.h"

namespace assay::registry {
namespace {

SQLite::Database open_database(const std::filesystem::path& file, Registry::Access access) {
  const bool writable = access == Registry::Access::read_write;
  if (writable) make_if_missing(file, migrations());
  return open_checked(file, writable, migrations());
}

}  // namespace

Registry::Impl::Impl(std::filesystem::path path, Access access)
    : file(std::move(path)), database(open_database(file, access)) {
  if (access == Access::read_write) migrate(database, file, migrations());
}

SQLite::Statement& Registry::Impl::statement(const std::string& sql) {
  auto& kept = statements[sql];
  if (!kept) kept = std::make_unique<SQLite::Statement>(database, sql);
  return *kept;
}

std::int64_t Registry::Impl::metric_key(const std::string& name) {
  if (const auto known = metric_keys.find(name); known != metric_keys.end()) return known->second;
  if (metric_keys.size() >= 100'000) metric_keys.clear();  // a trainer that never names two alike must not fill memory
  {
    Use insert(statement("INSERT INTO metric_keys(name) VALUES (?1) ON CONFLICT DO NOTHING"));
    insert.bind(name).run();
  }
  Use select(statement("SELECT id FROM metric_keys WHERE name = ?1"));
  select.bind(name).step();
  return metric_keys[name] = select.integer(0);
}

Registry Registry::open(const std::filesystem::path& file, Access access) {
  try {
    return Registry(std::make_unique<Impl>(file, access));
  } catch (const SQLite::Exception& error) {
    throw std::runtime_error(file.string() + ": " + error.what());
  }
}

Registry::Registry(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Registry::~Registry() = default;
Registry::Registry(Registry&&) noexcept = default;
Registry& Registry::operator=(Registry&&) noexcept = default;

void Registry::batch(const std::function<void()>& body) { impl_->write(body); }

}  // namespace assay::registry

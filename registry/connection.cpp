#include "registry/connection.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

void Registry::lay_out_log() {
  constexpr off_t kLength = 32 + 1000 * (24 + 4096);   // header, and frames up to wal_autocheckpoint's default of pages
  impl_->write([&] {
    // With the lock to write, nobody else makes it longer meanwhile, and of ours nothing has been written to it yet.
    const int log = ::open((impl_->file.string() + "-wal").c_str(), O_WRONLY | O_CLOEXEC);
    if (log < 0) return;
    struct stat status {};
    const std::string zeros(1 << 16, '\0');
    if (::fstat(log, &status) == 0)
      for (off_t at = status.st_size; at < kLength;) {
        const ssize_t n = ::pwrite(log, zeros.data(), static_cast<std::size_t>(std::min<off_t>(kLength - at, 1 << 16)), at);
        if (n <= 0) break;
        at += n;
      }
    ::fsync(log);
    ::close(log);
  });
}

std::int64_t Registry::version_of_others() const {
  const auto ask = [&] {
    Use use(impl_->statement("PRAGMA data_version"));
    use.step();
    return use.integer(0);
  };
  return impl_->depth > 0 ? ask() : impl_->read(ask);
}

void Registry::batch(const std::function<void()>& body) { impl_->write(body); }

}  // namespace assay::registry

#include "registry/schema.h"

#include <SQLiteCpp/Backup.h>
#include <SQLiteCpp/Statement.h>
#include <SQLiteCpp/Transaction.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace assay::registry {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& file, const std::string& reason) {
  throw std::runtime_error(file.string() + ": " + reason);
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool ok = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!ok) fail(folder, std::strerror(error));
}

constexpr const char* kForeign = "is not an assay registry (not an SQLite file)";

std::string damaged(const std::string& how) {
  return "is damaged (" + how + "); restore it from a copy, or move it away and rebuild it from the run folders";
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

void refuse_network(const fs::path& file) {
  struct statfs info {};
  if (::statfs(folder_of(file).c_str(), &info) != 0) fail(folder_of(file), std::strerror(errno));
  if (const auto kind = network_file_system(static_cast<long>(info.f_type)))
    fail(file, "the registry cannot lie on " + *kind +
                   ", a network file system, where SQLite's write-ahead log is not safe; set XDG_DATA_HOME to a folder "
                   "on a local disk");
}

// SQLite's file format, 1.3: the first page begins with this header, which begins with these 16 bytes.
constexpr std::size_t kHeader = 100;
constexpr std::string_view kMagic("SQLite format 3\0", 16);

bool begins_as_sqlite(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::array<char, kMagic.size()> first{};
  in.read(first.data(), first.size());
  return kMagic.starts_with(std::string_view(first.data(), static_cast<std::size_t>(in.gcount())));
}

// SQLite reads a file that was cut inside its last page as if the rest were zeros, and one of less than a page as empty.
bool cut_short(const fs::path& file) {
  for (int look = 0; look < 2; ++look) {
    // While there is a log, another process may be writing it back at this moment, the last page half there.
    std::error_code ignored;
    if (fs::file_size(file.string() + "-wal", ignored) > 0 && !ignored) return false;
    std::ifstream in(file, std::ios::binary);
    std::array<unsigned char, kHeader> header{};
    in.read(reinterpret_cast<char*>(header.data()), header.size());
    const std::uintmax_t size = fs::file_size(file);
    const unsigned stored = header[16] * 256U + header[17];  // page size; 1 stands for 65536
    const unsigned page = stored == 1 ? 65536 : stored;
    if (size >= header.size() && (page < 512 || size % page == 0)) return false;
    if (look == 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return true;
}

void use_wal(SQLite::Database& database, const fs::path& file) {
  if (database.execAndGet("PRAGMA journal_mode = WAL").getString() != "wal")
    fail(file, "SQLite cannot keep a write-ahead log on this file system; set XDG_DATA_HOME to a folder on a local disk");
}

void configure(SQLite::Database& database) {
  add_functions(database.getHandle());
  database.exec("PRAGMA foreign_keys = ON");
  database.exec("PRAGMA synchronous = FULL");
}

int version_of(SQLite::Database& database) { return database.execAndGet("PRAGMA user_version").getInt(); }

void apply(SQLite::Database& database, const std::vector<Migration>& steps, int from) {
  for (const Migration& step : steps)
    if (step.version > from) database.exec(step.sql);
  database.exec("PRAGMA user_version = " + std::to_string(steps.back().version));
}

void remove_with_companions(const fs::path& file) {
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    std::error_code ignored;
    fs::remove(file.string() + suffix, ignored);
  }
}

// A copy of the file as it is now, through a connection of its own: the migrating one holds the write lock.
void back_up(const fs::path& file, int version) {
  const fs::path copy = file.string() + ".schema-" + std::to_string(version) + ".backup";
  const fs::path temporary = copy.string() + ".tmp." + std::to_string(::getpid());
  remove_with_companions(temporary);
  {
    SQLite::Database from(file.string(), SQLite::OPEN_READONLY, kBusyTimeoutMs);
    SQLite::Database to(temporary.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, kBusyTimeoutMs);
    SQLite::Backup backup(to, from);
    if (backup.executeStep(-1) != SQLITE_DONE) fail(copy, "the backup before a migration could not be made");
  }
  if (::rename(temporary.c_str(), copy.c_str()) != 0) fail(copy, std::strerror(errno));
  sync_folder(folder_of(file));
}

}  // namespace

std::optional<std::string> network_file_system(long f_type) {
  switch (static_cast<unsigned long>(f_type) & 0xFFFFFFFFUL) {  // statfs(2)'s magic numbers
    case 0x6969: return "NFS";
    case 0xFF534D42: return "CIFS";
    case 0xFE534D42: return "SMB2";
    case 0x517B: return "SMB";
    case 0x01021997: return "9P";
    case 0x00C36400: return "Ceph";
    case 0x0BD00BD0: return "Lustre";
    case 0x47504653: return "GPFS";
    case 0x19830326: return "BeeGFS";
    case 0x5346414F: return "AFS";
    case 0x73757245: return "Coda";
    case 0x01161970: return "GFS2";
    case 0x7461636F: return "OCFS2";
    default: return std::nullopt;
  }
}

void make_if_missing(const fs::path& file, const std::vector<Migration>& steps) {
  std::error_code ignored;  // a path through something that is no folder does not exist either
  if (fs::exists(file, ignored)) return;
  std::error_code error;
  fs::create_directories(folder_of(file), error);
  if (error) fail(folder_of(file), "this folder cannot be made: " + error.message());
  refuse_network(file);
  // A log without its file: what it holds must not be mixed into a new registry.
  if (fs::exists(file.string() + "-wal"))
    fail(file, "the registry is gone but its log " + file.filename().string() +
                   "-wal is still there; put the registry back, or move the log away to begin a new one");
  static std::atomic<int> made{0};  // threads of one process must not share the name either
  const fs::path temporary = file.string() + ".new." + std::to_string(::getpid()) + "." + std::to_string(++made);
  remove_with_companions(temporary);
  {
    SQLite::Database database(temporary.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, kBusyTimeoutMs);
    use_wal(database, file);
    configure(database);
    SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
    database.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
    apply(database, steps, 0);
    transaction.commit();
  }  // closing the last connection writes the log back and removes it
  const bool linked = ::link(temporary.c_str(), file.c_str()) == 0;
  const int reason = errno;
  remove_with_companions(temporary);
  if (!linked && reason != EEXIST) fail(file, std::strerror(reason));
  sync_folder(folder_of(file));
}

SQLite::Database open_checked(const fs::path& file, bool writable, const std::vector<Migration>& steps) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) fail(file, "there is no registry here yet; `assay run` or `assay add` makes one");
  if (!fs::is_regular_file(file)) fail(file, "is not a file");
  if (fs::file_size(file) == 0)
    fail(file, "is empty, which a registry never is; restore it from a copy, or move it away to begin a new one");
  refuse_network(file);
  if (!begins_as_sqlite(file)) fail(file, kForeign);
  if (cut_short(file)) fail(file, damaged("cut short"));
  try {
    SQLite::Database database(file.string(), writable ? SQLite::OPEN_READWRITE : SQLite::OPEN_READONLY, kBusyTimeoutMs);
    if (writable && sqlite3_db_readonly(database.getHandle(), "main") == 1) fail(file, "cannot be written");
    const std::int32_t id = database.execAndGet("PRAGMA application_id").getInt();
    if (id != kApplicationId) fail(file, "is an SQLite file, but not an assay registry");
    const int version = version_of(database);
    const int known = steps.back().version;
    if (version > known)
      fail(file, "was written by a newer assay (schema " + std::to_string(version) + "; this one knows up to " +
                     std::to_string(known) + "); use that one");
    if (version < 1) fail(file, "is marked as an assay registry but has no schema");
    if (!writable && version < known)
      fail(file, "has the older schema " + std::to_string(version) + " (this assay uses " + std::to_string(known) +
                     "); start the daemon once to bring it up to date");
    if (writable) use_wal(database, file);
    configure(database);
    return database;
  } catch (const SQLite::Exception& error) {
    switch (error.getErrorCode()) {
      case SQLITE_NOTADB: fail(file, kForeign);
      case SQLITE_CORRUPT: fail(file, damaged(error.what()));
      case SQLITE_CANTOPEN: fail(file, "cannot be opened");
      default: fail(file, error.what());
    }
  }
}

int migrate(SQLite::Database& database, const fs::path& file, const std::vector<Migration>& steps) {
  const int known = steps.back().version;
  if (const int version = version_of(database); version == known) return version;
  SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
  const int version = version_of(database);  // another process may have migrated while this one waited for the lock
  if (version > known)
    fail(file, "was migrated by a newer assay just now (schema " + std::to_string(version) + "); use that one");
  if (version < known) {
    back_up(file, version);
    apply(database, steps, version);
    transaction.commit();
  }
  return version;
}

}  // namespace assay::registry

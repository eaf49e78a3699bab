// How a registry file is recognised, made and brought up to date. Internal to registry/ and its tests.
#pragma once

#include <SQLiteCpp/Database.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace assay::registry {

// PRAGMA application_id of every registry: "assy". On disk, frozen.
inline constexpr std::int32_t kApplicationId = 0x61737379;

struct Migration {
  int version;      // PRAGMA user_version after it
  const char* sql;
};
// From registry/schema/, embedded at build time; versions 1, 2, 3, … without gaps.
const std::vector<Migration>& migrations();

// How long one connection waits for another's write before it gives up.
inline constexpr int kBusyTimeoutMs = 60'000;

// Makes `file` if it is not there, whole or not at all: built under a temporary name beside it, then linked into place.
// Two that make it at once: the first wins and the second uses it.
void make_if_missing(const std::filesystem::path& file, const std::vector<Migration>& steps);

// Opens an existing registry and sets up the connection. Throws std::runtime_error with one sentence for anything that
// is not a registry this build can use.
SQLite::Database open_checked(const std::filesystem::path& file, bool writable, const std::vector<Migration>& steps);

// Brings an open registry to the last of `steps`, in one BEGIN IMMEDIATE that reads the version again inside the lock.
// Before that it copies the file to FILE.schema-N.backup (N: the version it had). Returns the version found.
int migrate(SQLite::Database& database, const std::filesystem::path& file, const std::vector<Migration>& steps);

// What migrations may call beside SQLite's own functions: pack_points(key, value), an aggregate (metrics.cpp).
void add_functions(sqlite3* database);

// Name of the network file system with this statfs(2) f_type, if WAL's shared memory does not work across its clients.
std::optional<std::string> network_file_system(long f_type);

}  // namespace assay::registry

// One open registry: the connection, its kept statements, its transactions. Internal to registry/.
#pragma once

#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Statement.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "registry/registry.h"
#include "support/fault_point.h"

namespace assay::registry {

// Bytes to bind as a BLOB, which must outlive the statement's use.
struct Blob {
  const std::string& bytes;
};

// A kept statement in use: reset and unbound when it goes out of scope. A statement must not be used twice at once.
class Use {
 public:
  explicit Use(SQLite::Statement& statement) : statement_(statement) {}
  ~Use() {
    statement_.tryReset();
    try {
      statement_.clearBindings();
    } catch (const SQLite::Exception&) {
      // sqlite3_clear_bindings cannot fail on a statement that exists
    }
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  // Values for ?1, ?2, …; a null optional and a NaN are stored as NULL.
  template <typename... Values>
  Use& bind(const Values&... values) {
    int index = 0;
    (bind_one(++index, values), ...);
    return *this;
  }
  // Binds from a moving position, for filters put together at run time.
  template <typename Value>
  void bind_next(const Value& value) {
    bind_one(++next_, value);
  }
  bool step() { return statement_.executeStep(); }
  int run() { return statement_.exec(); }  // rows changed

  std::int64_t integer(int column) const { return statement_.getColumn(column).getInt64(); }
  double real(int column) const { return statement_.getColumn(column).getDouble(); }
  std::string text(int column) const { return statement_.getColumn(column).getString(); }
  // Valid until the next step.
  std::string_view blob(int column) const {
    const SQLite::Column value = statement_.getColumn(column);
    return {static_cast<const char*>(value.getBlob()), static_cast<std::size_t>(value.getBytes())};
  }
  bool null(int column) const { return statement_.getColumn(column).isNull(); }
  std::optional<double> real_or_null(int column) const {
    return null(column) ? std::nullopt : std::optional(real(column));
  }
  std::optional<int> int_or_null(int column) const {
    return null(column) ? std::nullopt : std::optional(static_cast<int>(integer(column)));
  }

 private:
  void bind_one(int index, std::int64_t value) { statement_.bind(index, value); }
  void bind_one(int index, int value) { statement_.bind(index, value); }
  void bind_one(int index, bool value) { statement_.bind(index, static_cast<int>(value)); }
  void bind_one(int index, double value) { statement_.bind(index, value); }  // SQLite binds NaN as NULL
  void bind_one(int index, const std::string& value) { statement_.bind(index, value); }
  void bind_one(int index, const char* value) { statement_.bind(index, value); }
  void bind_one(int index, const Blob& value) {
    statement_.bindNoCopy(index, value.bytes.data(), static_cast<int>(value.bytes.size()));
  }
  template <typename Value>
  void bind_one(int index, const std::optional<Value>& value) {
    if (value) bind_one(index, *value);
    else statement_.bind(index);
  }

  SQLite::Statement& statement_;
  int next_ = 0;
};

struct Registry::Impl {
  Impl(std::filesystem::path path, Access access);

  std::filesystem::path file;
  SQLite::Database database;
  std::map<std::string, std::unique_ptr<SQLite::Statement>, std::less<>> statements;
  std::map<std::string, std::int64_t, std::less<>> metric_keys;  // name -> id; emptied by a rollback
  int depth = 0;                                                 // of nested transactions

  SQLite::Statement& statement(const std::string& sql);
  // BEGIN, SAVEPOINT and their ends, compiled once as the rest.
  void control(const char* sql) { Use(statement(sql)).run(); }
  std::int64_t metric_key(const std::string& name);
  std::vector<MetricPoint> metrics(std::int64_t run, const std::optional<std::string>& key, std::int64_t first_step);
  // Does the query give a row?
  template <typename Value>
  bool exists(const char* sql, const Value& value) {
    return Use(statement(sql)).bind(value).step();
  }

  // Runs `body` in a write transaction of its own (BEGIN IMMEDIATE: it waits for the lock here and nowhere later), or
  // in a savepoint of the one around it. SQLite's errors leave as "FILE: REASON".
  template <typename Body>
  auto write(Body&& body) {
    return in_transaction("BEGIN IMMEDIATE", body);
  }
  // The same for what is one row: inside of another transaction it needs no savepoint of its own.
  template <typename Body>
  auto write_row(Body&& body) {
    if (depth == 0) return write(body);
    try {
      return body();
    } catch (const SQLite::Exception& error) {
      throw std::runtime_error(file.string() + ": " + error.what());
    }
  }
  // One snapshot for several statements.
  template <typename Body>
  auto read(Body&& body) {
    return in_transaction("BEGIN", body);
  }

 private:
  template <typename Body>
  auto in_transaction(const char* begin, Body& body) {
    struct Transaction {
      Impl& impl;
      const bool outermost;
      bool done = false;
      Transaction(Impl& owner, const char* sql) : impl(owner), outermost(owner.depth == 0) {
        impl.control(outermost ? sql : "SAVEPOINT nested");
        ++impl.depth;
      }
      void commit() {
        if (outermost) support::fault_point("registry: before commit");
        impl.control(outermost ? "COMMIT" : "RELEASE nested");
        done = true;
        if (outermost) support::fault_point("registry: committed");
      }
      ~Transaction() {
        --impl.depth;
        if (done) return;
        impl.metric_keys.clear();
        impl.database.tryExec(outermost ? "ROLLBACK" : "ROLLBACK TO nested; RELEASE nested");
      }
    };
    try {
      Transaction transaction(*this, begin);
      if constexpr (std::is_void_v<decltype(body())>) {
        body();
        transaction.commit();
      } else {
        auto result = body();
        transaction.commit();
        return result;
      }
    } catch (const SQLite::Exception& error) {
      throw std::runtime_error(file.string() + ": " + error.what());
    }
  }
};

}  // namespace assay::registry

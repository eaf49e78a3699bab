// Lists of runs by the page, and counts: what a page that is looked at all day asks for.
// Reads only, on a connection of its own; the rows themselves come from the Registry, by their numbers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::registry {

struct ListQuery {
  std::string series;                  // empty: all
  std::string text;                    // part of a run id or series id, or a run's number; empty: all
  std::vector<StateKind> states;       // empty: any
  enum class Order { active, number, run, series, state, score, accuracy, created, started, took };
  Order order = Order::active;         // active: running, starting, queued, blocked, then what has ended; newest first
  bool descending = true;              // runs without a value in that column come last either way
  std::int64_t offset = 0, limit = 100;
};

struct RunList {
  std::int64_t total = 0;              // of the query, whatever its offset and limit
  std::vector<std::int64_t> numbers;
};

struct SeriesCount {
  std::string id, title, goal;
  std::int64_t runs = 0, active = 0, succeeded = 0;
  double last = 0;                     // when its newest run was queued; 0: it has none
};

class Listing {
 public:
  // Of a registry that Registry::open() has accepted. Throws std::runtime_error "FILE: REASON", as do all calls. One
  // object belongs to one thread at a time.
  explicit Listing(const std::filesystem::path& file);
  ~Listing();
  Listing(Listing&&) noexcept;

  // A page of them: some 20 ms with 10,000 runs, whatever has been measured in them.
  RunList list(const ListQuery& query) const;
  std::map<StateKind, std::int64_t> count_by_state() const;
  std::vector<SeriesCount> count_by_series() const;       // the one with the newest run first

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::registry

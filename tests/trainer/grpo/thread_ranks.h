// Ranks that are threads of this process: what MPI does for them, and NCCL, with the same calls and in memory.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "trainer/grpo/gpu_ranks.h"
#include "trainer/grpo/ranks.h"
#include "trainer/mpi/module.h"
#include "trainer/nccl/module.h"

namespace assay::test {

// Where the threads meet. One at a time; ranks::Table is plain functions, so they find it by a static.
class Hub {
 public:
  explicit Hub(int size) : size_(size), mine_(static_cast<std::size_t>(size)) { current() = this; }

  // f(ranks) in one thread for each rank, which leaves at the end. What one of them throws is thrown again.
  void run(const std::function<void(train::Ranks&)>& f) {
    std::vector<std::exception_ptr> thrown(mine_.size());
    std::vector<std::thread> threads;
    for (int r = 0; r < size_; ++r)
      threads.emplace_back([&, r] {
        rank() = r;
        try {
          train::Ranks ranks = train::Ranks::join(size_, table());
          f(ranks);
          ranks.leave();
        } catch (...) {
          thrown[static_cast<std::size_t>(r)] = std::current_exception();
          over();
        }
      });
    for (auto& thread : threads) thread.join();
    for (const auto& error : thrown)
      if (error) std::rethrow_exception(error);
  }

  static const train::ranks::Table& table() {
    static constexpr train::ranks::Table functions{
        [](int* own, int* size) { *own = rank(), *size = current()->size_; },
        [](const void* mine, const std::int64_t* counts, void* all, bool (*give_up)()) {
          return current()->gather(static_cast<const char*>(mine), counts, static_cast<char*>(all), give_up);
        },
        [](const void* mine, const std::int64_t* counts, void* received, bool (*give_up)()) {
          return current()->exchange(static_cast<const char*>(mine), counts, static_cast<char*>(received), give_up);
        },
        [] { return current()->ended_; },
        [] {},
        [] {},
        [](int) { current()->over(); }};
    return functions;
  }

 private:
  static Hub*& current() {
    static Hub* hub = nullptr;
    return hub;
  }
  static int& rank() {
    static thread_local int own = 0;
    return own;
  }

  void over() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    all_here_.notify_all();
  }

  bool meet(bool (*give_up)()) {
    std::unique_lock lock(mutex_);
    const auto round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      all_here_.notify_all();
    }
    while (round_ == round) {
      if (ended_ || give_up()) return false;
      all_here_.wait_for(lock, std::chrono::milliseconds(5));
    }
    return true;
  }
  bool gather(const char* mine, const std::int64_t* counts, char* all, bool (*give_up)()) {
    mine_[static_cast<std::size_t>(rank())] = mine;
    if (!meet(give_up)) return false;
    for (std::size_t r = 0; r < mine_.size(); all += counts[r++])
      if (counts[r] > 0) std::memmove(all, mine_[r], static_cast<std::size_t>(counts[r]));
    return meet(give_up);
  }
  bool exchange(const char* mine, const std::int64_t* counts, char* received, bool (*give_up)()) {
    mine_[static_cast<std::size_t>(rank())] = mine;
    if (!meet(give_up)) return false;
    std::int64_t from = 0;
    for (int r = 0; r < rank(); ++r) from += counts[r];
    const auto size = static_cast<std::size_t>(counts[rank()]);
    for (std::size_t r = 0; r < mine_.size(); ++r)
      if (size > 0) std::memcpy(received + r * size, mine_[r] + from, size);
    return meet(give_up);
  }

  int size_;
  std::vector<const char*> mine_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  std::uint64_t round_ = 0;
  bool ended_ = false;
};

// What GPUs are connected by, but in the host's memory: a transfer is done when every rank has taken what is its own.
class Wires {
 public:
  explicit Wires(int size) : size_(static_cast<std::size_t>(size)) {}

  std::unique_ptr<train::nccl::Communicator> end(int rank) { return std::make_unique<End>(*this, static_cast<std::size_t>(rank)); }
  std::int64_t transfers() const { return static_cast<std::int64_t>(posted_.size()); }

 private:
  struct Transfer {
    std::map<std::size_t, std::vector<train::nccl::Piece>> to;
    std::size_t taken = 0;
  };

  class End : public train::nccl::Communicator {
   public:
    End(Wires& wires, std::size_t rank) : wires_(wires), rank_(rank) {}
    void begin_nothing() override { under_way_ = false; }
    void begin(const train::nccl::Piece* to, const train::nccl::Piece* from) override {
      const std::lock_guard lock(wires_.mutex_);
      from_.assign(from, from + wires_.size_);
      wires_.posted_[number_].to[rank_].assign(to, to + wires_.size_);
      under_way_ = true;
      taken_ = false;
    }
    State state(std::string& why) override {
      const std::lock_guard lock(wires_.mutex_);
      if (!under_way_) return State::done;
      Transfer& transfer = wires_.posted_[number_];
      if (transfer.to.size() < wires_.size_) return State::working;
      if (!taken_) {
        for (std::size_t r = 0; r < wires_.size_; ++r) {
          const auto& piece = transfer.to[r][rank_];
          if (r == rank_) continue;
          if (piece.bytes != from_[r].bytes) {
            why = "pieces of different size";
            return State::failed;
          }
          if (piece.bytes > 0) std::memcpy(from_[r].data, piece.data, static_cast<std::size_t>(piece.bytes));
        }
        taken_ = true;
        ++transfer.taken;
      }
      if (transfer.taken < wires_.size_) return State::working;
      under_way_ = false;
      ++number_;
      return State::done;
    }
    void abort() override {}

   private:
    Wires& wires_;
    std::size_t rank_;
    std::vector<train::nccl::Piece> from_;
    std::uint64_t number_ = 0;
    bool under_way_ = false, taken_ = false;
  };

  std::size_t size_;
  std::mutex mutex_;
  std::map<std::uint64_t, Transfer> posted_;
};

// As join_gpus(), over wires.
inline void connect(train::Ranks& ranks, Wires& wires) {
  train::Ranks* const all = &ranks;
  ranks.use(std::make_unique<train::GpuRanks>(wires.end(ranks.rank()), ranks.rank(), ranks.size(), [all] { return all->given_up(); },
                                              [all] { all->gather(""); }));
}

}  // namespace assay::test

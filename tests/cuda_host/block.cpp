#undef _FORTIFY_SOURCE  // its longjmp() refuses to leave a stack for another

#include "block.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "include/cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace assay::cuda_host {
namespace {

constexpr std::size_t stack_bytes = 128 << 10;  // a body at -O0 under a sanitizer holds some 10 KB
Block* entered = nullptr;                       // for fiber_main(), which takes no pointer

const char* name(Kind kind) {
  switch (kind) {
    case Kind::barrier: return "__syncthreads()";
    case Kind::shuffle_xor: return "__shfl_xor_sync()";
    case Kind::reduce_max: return "__reduce_max_sync()";
  }
  return "";
}

}  // namespace

void Block::run(unsigned threads, const std::function<void()>& thread, std::uint32_t seed) {
  body_ = &thread;
  threads_.assign(threads, {});
  order_.resize(threads);
  std::iota(order_.begin(), order_.end(), 0u);
  std::shuffle(order_.begin(), order_.end(), std::minstd_rand(seed));
  begun_ = 0;
  thrown_ = nullptr;
  const auto stop_at_fault = [&] {
    if (thrown_) std::rethrow_exception(thrown_);
  };
  try {
    while (begun_ < order_.size()) {
      enter(idle_fiber());
      stop_at_fault();
    }
    while (release()) {
      for (const unsigned t : order_) {
        if (threads_[t].state != Thread::released) continue;
        enter(*threads_[t].fiber);
        stop_at_fault();
      }
    }
  } catch (...) {
    idle_.clear();  // what the threads had on their stacks is plain data: the stacks can go
    fibers_.clear();
    throw;
  }
}

std::uint32_t Block::wait(const Exchange& exchange, std::uint32_t value) {
  const unsigned me = current_;
  Thread& thread = threads_[me];
  thread.state = Thread::waiting;
  thread.fiber = running_;
  thread.exchange = exchange;
  thread.value = value;
  leave();
  current_ = threadIdx.x = me;
  return thread.result;
}

// ---- who has met ----

std::string Block::described(unsigned thread) const {
  const std::string who = "thread " + std::to_string(thread) + " of block " + std::to_string(blockIdx.x);
  if (thread >= threads_.size()) return who + " does not exist";
  if (threads_[thread].state == Thread::ended) return who + " has ended";
  const Exchange& in = threads_[thread].exchange;
  return who + " waits in " + name(in.kind) + ", line " + std::to_string(in.line);
}

void Block::exchange_in_warp(unsigned first, unsigned lane) {
  const Exchange& exchange = threads_[first + lane].exchange;
  if (!(exchange.mask >> lane & 1)) throw Fault(described(first + lane) + ", whose mask leaves it out");
  std::int32_t largest = INT32_MIN;
  for (unsigned l = 0; l < 32; ++l) {
    if (!(exchange.mask >> l & 1)) continue;
    const unsigned t = first + l;
    if (t >= threads_.size() || threads_[t].state != Thread::waiting || !(threads_[t].exchange == exchange))
      throw Fault(described(first + lane) + ", which names lane " + std::to_string(l) + "; but " + described(t) +
                  (t < threads_.size() && threads_[t].state == Thread::waiting ? ", or came with another mask or distance" : ""));
    const unsigned other = l ^ static_cast<unsigned>(exchange.lanes);
    if (other >= 32 || !(exchange.mask >> other & 1))
      throw Fault(described(t) + ", for the value of lane " + std::to_string(other) + ", which is not in the mask");
    largest = std::max(largest, static_cast<std::int32_t>(threads_[t].value));
  }
  for (unsigned l = 0; l < 32; ++l) {
    if (!(exchange.mask >> l & 1)) continue;
    Thread& thread = threads_[first + l];
    thread.result = exchange.kind == Kind::reduce_max ? static_cast<std::uint32_t>(largest)
                                                      : threads_[first + (l ^ static_cast<unsigned>(exchange.lanes))].value;
    thread.state = Thread::released;
  }
}

bool Block::release() {
  // Nobody runs now: each thread has ended or waits, and what it waits for is here or never comes.
  std::vector<unsigned> at_barrier;
  unsigned ended = 0;
  for (unsigned t = 0; t < threads_.size(); ++t) {
    if (threads_[t].state == Thread::ended) ++ended;
    if (threads_[t].state != Thread::waiting) continue;
    if (threads_[t].exchange.kind == Kind::barrier) at_barrier.push_back(t);
    else exchange_in_warp(t / 32 * 32, t % 32);
  }
  if (at_barrier.size() + ended == threads_.size()) {
    for (const unsigned t : at_barrier) {
      if (!(threads_[t].exchange == threads_[at_barrier[0]].exchange))
        throw Fault(described(at_barrier[0]) + "; but " + described(t));
      threads_[t].state = Thread::released;
    }
  }
  return ended < threads_.size();
}

// ---- fibers ----

// A fiber is entered once by setcontext(), from then on by longjmp(), which makes no system call. Sanitizers want to be told.

Block::Fiber::~Fiber() {
#ifdef __SANITIZE_THREAD__
  if (stack) __tsan_destroy_fiber(sanitizer);
#endif
}

void Block::before_switch([[maybe_unused]] Fiber& from, [[maybe_unused]] Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.sanitizer, to.bottom, to.bytes);
#elif defined(__SANITIZE_THREAD__)
  if (&from == &outside_) from.sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.sanitizer, 0);
#endif
}
void Block::after_switch([[maybe_unused]] Fiber& from, [[maybe_unused]] Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(to.sanitizer, &from.bottom, &from.bytes);
#endif
}

Block::Fiber& Block::idle_fiber() {
  if (idle_.empty()) {
    Fiber& fiber = *fibers_.emplace_back(std::make_unique<Fiber>());
    fiber.stack = std::make_unique_for_overwrite<char[]>(stack_bytes);
    fiber.bottom = fiber.stack.get();
    fiber.bytes = stack_bytes;
#ifdef __SANITIZE_THREAD__
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, stack_bytes};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    idle_.push_back(&fiber);
  }
  Fiber& fiber = *idle_.back();
  idle_.pop_back();
  return fiber;
}

void Block::fiber_main() {
  entered->after_switch(entered->outside_, *entered->running_);
  entered->live();
}

void Block::live() {
  for (;;) {
    while (begun_ < order_.size() && !thrown_) {
      const unsigned me = order_[begun_++];
      current_ = threadIdx.x = me;
      try {
        (*body_)();
      } catch (...) {
        thrown_ = std::current_exception();
      }
      threads_[me].state = Thread::ended;
    }
    idle_.push_back(running_);
    leave();
  }
}

void Block::enter(Fiber& to) {
  running_ = &to;
  entered = this;
  if (_setjmp(outside_.place) != 0) return after_switch(*running_, outside_);
  before_switch(outside_, to);
  if (to.begun) _longjmp(to.place, 1);
  to.begun = true;
  setcontext(&to.context);
}

void Block::leave() {
  Fiber& me = *running_;
  if (_setjmp(me.place) == 0) {
    before_switch(me, outside_);
    _longjmp(outside_.place, 1);
  }
  after_switch(outside_, *running_);
}

}  // namespace assay::cuda_host

// The threads of one block, as fibers: each runs until it ends or has to wait for others.
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace assay::cuda_host {

enum class Kind { barrier, shuffle_xor, reduce_max };
// What a thread waits in. Two threads meet where all of it is the same.
struct Exchange {
  Kind kind = Kind::barrier;
  unsigned mask = 0;  // the lanes that it names; of no meaning for a whole block
  int lanes = 0;      // a shuffle's distance
  int line = 0;
  bool operator==(const Exchange&) const = default;
};

class Block {
 public:
  // Runs `thread` with threadIdx.x = 0 ... threads - 1, begun in an order that `seed` says. Throws Fault, or what a thread threw.
  void run(unsigned threads, const std::function<void()>& thread, std::uint32_t seed);

  // From within a thread: waits for the others. Returns what came of all lanes' values, for this one.
  std::uint32_t wait(const Exchange& exchange, std::uint32_t value);

 private:
  struct Fiber {
    Fiber() = default;
    ~Fiber();
    ucontext_t context;
    std::jmp_buf place;
    std::unique_ptr<char[]> stack;
    bool begun = false;
    // For sanitizers: where the stack lies, and what they keep of it.
    const void* bottom = nullptr;
    std::size_t bytes = 0;
    void* sanitizer = nullptr;
  };
  struct Thread {
    enum { fresh, waiting, released, ended } state = fresh;
    Fiber* fiber = nullptr;
    Exchange exchange;
    std::uint32_t value = 0, result = 0;
  };

  static void fiber_main();
  void live();            // of a fiber: runs threads that nobody has begun, one after the other
  void enter(Fiber& to);  // from run() into a fiber, until it leaves
  void leave();
  void before_switch(Fiber& from, Fiber& to);
  void after_switch(Fiber& from, Fiber& to);
  Fiber& idle_fiber();
  bool release();  // those that have met; false where all threads have ended
  void exchange_in_warp(unsigned first, unsigned lane);
  std::string described(unsigned thread) const;

  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<unsigned> order_;
  std::size_t begun_ = 0;  // of order_
  unsigned current_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;
  Fiber outside_;  // whoever called run()
  std::exception_ptr thrown_;
};

}  // namespace assay::cuda_host

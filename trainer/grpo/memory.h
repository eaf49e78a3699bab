// Memory: how much there was, and what to say when it runs out.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

#include "experiments/spec/config.h"

namespace assay::train {

// what() is one sentence: in which work, how much was asked for where that is known, and what to set.
struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Largest resident set of this process so far, in GiB. Not ru_maxrss, which begins with that of the program that started it.
// Throws std::runtime_error where /proc does not say.
double peak_memory_gb();

// Work whose memory goes with a batch size of the config.
struct Batched {
  std::string work;           // "sampling"
  std::string key;            // "rollout.batch_size"
  std::string unit;           // "sequences"
  std::int64_t in_use = 0;    // of `unit` at once
  std::int64_t least = 1;     // below this the key changes nothing; "rollout.batch_size" takes whole groups
};

Batched sampling_at_once(const spec::Config& config);
Batched updating_at_once(const spec::Config& config);
Batched evaluating_at_once(const spec::Config& config, std::int64_t problems);

// Of C++'s allocator, or LibTorch's, whose CPU one throws no type of its own.
bool is_out_of_memory(const std::exception& error);

// Does `work`. What the allocators throw, C++'s and LibTorch's, becomes OutOfMemory with half of what is in use as the size
// to try, or, where that is as small as it gets, with what else saves memory. Everything else passes.
void within_memory(const Batched& batched, const std::function<void()>& work);

}  // namespace assay::train

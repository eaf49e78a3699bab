// A GPU that is not there, for a test program of its own: linked into it, "cuda" is a device of LibTorch's there, open_gpu() of
// trainer/cuda and open_device() of quant/cuda hand it out, and everything that is written for a GPU runs as it stands.
//
// An operation on "cuda" is LibTorch's own for the CPU, on the memory behind (memory.h); a kernel of quant/cuda is kernels.cu's,
// by tests/cuda_host. What it shows:
//   the host touching a device's memory, and a device's operation given the host's (but for numbers): an error, as on a GPU;
//   work recorded in a graph: it is not done while it is recorded, and each replay does it on the same addresses, whatever has
//   become of the tensors; waiting for the device while recording, or a copy from or to the host: an error;
//   how often the host waits for the device;
//   what LibTorch refuses on CUDA in deterministic mode (the list in backend.cpp);
//   the backward on a thread of autograd's own, as on a GPU.
// What it cannot show: whether streams wait for each other (all is done at once, in the host's order), CUDA's sums and their
// accuracy, trainer/cuda/module.cpp (tests/trainer/cuda does), memory's true size, speed.
#pragma once

#include <functional>

#include "trainer/model/accelerator.h"

namespace assay::test {

// What is about to write to p, in a device's memory, while a graph is recorded: it is undone when that ends.
void before_write(const void* p);
// What each replay of the graph that is recorded shall do; nothing where none is.
void at_replay(std::function<void()> work);
// Does it now, and at each replay.
void on_stand_in(std::function<void()> work);

// The host waits for the device, or copies from or to it. Throws while a graph is recorded.
void host_waits(const char* why);

// From now on a copy to pinned memory that need not be waited for is given to `put`; it reads what is there when it is done.
// Before, and of null, all copies are done at once, and the host waits for them.
void copies_beside_the_host(std::function<void(std::function<void()>)> put);

struct StandInCounts {
  std::int64_t waits = 0, captures = 0;
};
StandInCounts& stand_in_counts();

train::Accelerator& stand_in_accelerator();

}  // namespace assay::test

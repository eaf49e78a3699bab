// Ranks that compute on GPUs: one GPU each, and what they exchange without the host's memory in between.
//
// How ranks start, agree and end is MPI's with them too (ranks.h): NCCL carries tensors only, and its ranks find each other by
// an id that rank 0 hands out over MPI.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainer/grpo/ranks.h"
#include "trainer/model/accelerator.h"
#include "trainer/nccl/module.h"

namespace assay::train {

// Where a rank runs, and the GPUs that it is given.
struct RankPlace {
  std::string machine;                 // the same for ranks on one machine, and for no others
  std::optional<std::string> visible;  // CUDA_VISIBLE_DEVICES; none: it is not set, and all GPUs are there
};

// The CUDA_VISIBLE_DEVICES of rank `rank`: of what it is given, the entry that is as far on as there are lower ranks on its
// machine; the only one where it is one. Throws BadInput where there are fewer.
std::string own_gpu(const std::vector<RankPlace>& places, int rank);

// Leaves this process the one GPU that is its own, by CUDA_VISIBLE_DEVICES. Before open_gpu(); by all ranks. Throws BadInput on all
// of them where one has none.
void take_own_gpu(Ranks& ranks);

// Throws BadInput where two ranks have the same GPU. identities: Accelerator::identity() of each rank.
void check_apart(const std::vector<std::string>& identities);

class GpuRanks {
 public:
  // give_up: asked while it waits. meet: returns when all ranks have called it. limit: how long a transfer may take that all
  // ranks have come to.
  GpuRanks(std::unique_ptr<nccl::Communicator> communicator, int rank, int size, std::function<bool()> give_up,
           std::function<void()> meet, std::chrono::milliseconds limit = std::chrono::seconds(60));

  // Before what is exchanged: waits until this GPU has done all that was put on it, and then for the other ranks. So nobody's
  // computing counts against the limit.
  void meet();
  // As ranks::Table's, of tensors of float32 on the device; bytes as there. Done when they return. Both throw Stopped where a
  // signal has come, and std::runtime_error where NCCL has failed or the limit is over: the run cannot go on then.
  void exchange(const at::Tensor& mine, const std::vector<std::int64_t>& bytes, const at::Tensor& received);
  void gather(const at::Tensor& mine, const std::vector<std::int64_t>& bytes, const at::Tensor& all);

 private:
  void transfer(const std::vector<at::Tensor>& to, const std::vector<at::Tensor>& from);
  void wait(const std::string& what, bool limited);

  std::unique_ptr<nccl::Communicator> communicator_;
  int rank_, size_;
  std::function<bool()> give_up_;
  std::function<void()> meet_;
  std::chrono::milliseconds limit_;
};

// Connects the GPUs of all ranks, to be called by all of them with their GPUs open. Throws BadInput, on all of them alike, where
// NCCL is missing or two have the same GPU, and std::runtime_error where they do not find each other.
void join_gpus(Ranks& ranks, const Accelerator& accelerator);

}  // namespace assay::train

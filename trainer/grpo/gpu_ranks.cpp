#include "trainer/grpo/gpu_ranks.h"

#include <ATen/ATen.h>
#include <time.h>

#include <cstdlib>
#include <map>
#include <stdexcept>

#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/stop.h"
#include "trainer/nccl/loader.h"

namespace assay::train {
namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at < list.size();) {
    const auto end = std::min(list.find(',', at), list.size());
    if (end > at) words.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

std::string gpus(std::size_t n) { return n == 1 ? "1 GPU" : std::to_string(n) + " GPUs"; }

}  // namespace

std::string own_gpu(const std::vector<RankPlace>& places, int rank) {
  const RankPlace& own = places[static_cast<std::size_t>(rank)];
  std::size_t before = 0, together = 0;
  for (std::size_t r = 0; r < places.size(); ++r) {
    if (places[r].machine != own.machine) continue;
    ++together;
    before += r < static_cast<std::size_t>(rank);
  }
  if (!own.visible) return std::to_string(before);
  const std::vector<std::string> given = split(*own.visible);
  // One entry may be this rank's own, as srun --gpus-per-task gives it; where it is not, check_apart() says so.
  if (given.size() == 1) return given.front();
  if (before < given.size()) return given[before];
  throw BadInput("train.device = \"cuda\": rank " + std::to_string(rank) + " of " + std::to_string(places.size()) + " has no GPU, since " +
                 std::to_string(together) + " ranks of its machine are given " + gpus(given.size()) + " (CUDA_VISIBLE_DEVICES=" +
                 *own.visible + "); set train.ranks to the number of GPUs, or give the run more");
}

void take_own_gpu(Ranks& ranks) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  std::vector<RankPlace> places;
  // Ranks on one machine are those that were booted together, whatever it is called.
  for (const std::string& machine : ranks.gather(support::read_file("/proc/sys/kernel/random/boot_id"))) places.push_back({machine, {}});
  const std::vector<std::string> lists = ranks.gather(visible ? "=" + std::string(visible) : "");
  for (std::size_t r = 0; r < lists.size(); ++r)
    if (!lists[r].empty()) places[r].visible = lists[r].substr(1);
  for (int r = 0; r < ranks.size(); ++r) {  // all of them, so that all refuse where one must
    const std::string gpu = own_gpu(places, r);
    if (r == ranks.rank()) setenv("CUDA_VISIBLE_DEVICES", gpu.c_str(), 1);
  }
}

void check_apart(const std::vector<std::string>& identities) {
  std::map<std::string, std::size_t> seen;
  for (std::size_t r = 0; r < identities.size(); ++r)
    if (const auto [other, fresh] = seen.try_emplace(identities[r], r); !fresh)
      throw BadInput("train.device = \"cuda\": ranks " + std::to_string(other->second) + " and " + std::to_string(r) +
                     " are given the same GPU (" + identities[r] + "); set train.ranks to the number of GPUs, or give the run more");
}

GpuRanks::GpuRanks(std::unique_ptr<nccl::Communicator> communicator, int rank, int size, std::function<bool()> give_up,
                   std::function<void()> meet, std::chrono::milliseconds limit)
    : communicator_(std::move(communicator)), rank_(rank), size_(size), give_up_(std::move(give_up)), meet_(std::move(meet)),
      limit_(limit) {
  wait("connect the ranks' GPUs", true);
}

// As the wait for MPI (mpi/module.cpp): a rank that waits obeys a signal and takes no core from the others.
void GpuRanks::wait(const std::string& what, bool limited) {
  const auto deadline = std::chrono::steady_clock::now() + limit_;
  long pause = 1000;  // nanoseconds
  for (int looks = 0;; ++looks) {
    std::string why;
    const auto state = communicator_->state(why);
    if (state == nccl::Communicator::State::done) return;
    if (state == nccl::Communicator::State::failed) {
      communicator_->abort();
      throw std::runtime_error("NCCL could not " + what + ": " + why);
    }
    if (give_up_()) {
      communicator_->abort();
      throw Stopped{};
    }
    if (limited && std::chrono::steady_clock::now() > deadline) {
      communicator_->abort();
      throw std::runtime_error("NCCL did not " + what + " within " +
                               std::to_string(std::chrono::duration_cast<std::chrono::seconds>(limit_).count()) +
                               " seconds, though all ranks had come to it; NCCL_DEBUG=INFO in the environment has it say more");
    }
    if (looks < 1000) continue;
    const timespec time{0, pause};
    nanosleep(&time, nullptr);
    if (pause < 200'000) pause *= 2;
  }
}

void GpuRanks::meet() {
  communicator_->begin_nothing();
  wait("compute", false);
  meet_();
}

void GpuRanks::transfer(const std::vector<at::Tensor>& to, const std::vector<at::Tensor>& from) {
  std::vector<nccl::Piece> out, in;
  std::int64_t bytes = 0;
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    out.push_back({const_cast<void*>(to[i].const_data_ptr()), static_cast<std::int64_t>(to[i].nbytes())});
    in.push_back({from[i].mutable_data_ptr(), static_cast<std::int64_t>(from[i].nbytes())});
    bytes += r == rank_ ? 0 : in.back().bytes;
  }
  from[static_cast<std::size_t>(rank_)].copy_(to[static_cast<std::size_t>(rank_)]);
  communicator_->begin(out.data(), in.data());
  wait("exchange " + std::to_string(bytes) + " bytes of gradients", true);
}

void GpuRanks::exchange(const at::Tensor& mine, const std::vector<std::int64_t>& bytes, const at::Tensor& received) {
  std::vector<at::Tensor> to, from;
  std::int64_t at = 0;
  for (int r = 0; r < size_; ++r) {
    const std::int64_t n = bytes[static_cast<std::size_t>(r)] / static_cast<std::int64_t>(sizeof(float));
    to.push_back(mine.narrow(0, at, n));
    from.push_back(received[r]);
    at += n;
  }
  transfer(to, from);
}

void GpuRanks::gather(const at::Tensor& mine, const std::vector<std::int64_t>& bytes, const at::Tensor& all) {
  const std::vector<at::Tensor> to(static_cast<std::size_t>(size_), mine);
  std::vector<at::Tensor> from;
  std::int64_t at = 0;
  for (int r = 0; r < size_; ++r) {
    const std::int64_t n = bytes[static_cast<std::size_t>(r)] / static_cast<std::int64_t>(sizeof(float));
    from.push_back(all.narrow(0, at, n));
    at += n;
  }
  transfer(to, from);
}

void join_gpus(Ranks& ranks, const Accelerator& accelerator) {
  const OpenedNccl& opened = open_nccl();
  std::string id, why;
  if (ranks.leads() && opened.table) id = opened.table->make_id(why);
  for (const std::string& missing : ranks.gather(opened.missing))
    if (!missing.empty()) throw BadInput(missing);
  check_apart(ranks.gather(accelerator.identity()));
  if (const std::string said = ranks.gather(why).front(); !said.empty()) throw std::runtime_error("NCCL cannot begin: " + said);
  id = ranks.gather(id).front();
  Ranks* const all = &ranks;  // which owns what is made here
  const auto meet = [all] { all->gather(""); };
  meet();
  ranks.use(std::make_unique<GpuRanks>(std::unique_ptr<nccl::Communicator>(opened.table->join(id, ranks.rank(), ranks.size())),
                                       ranks.rank(), ranks.size(), [all] { return all->given_up(); }, meet));
}

}  // namespace assay::train

#include "trainer/grpo/ranks.h"

#include <ATen/ATen.h>
#include <dlfcn.h>
#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/gpu_ranks.h"
#include "trainer/grpo/stop.h"
#include "trainer/mpi/module.h"

namespace assay::train {
namespace {

constexpr std::int64_t kPiece = 8 << 20;  // values summed at once

const ranks::Table& open_module() {
  namespace fs = std::filesystem;
  const fs::path module = fs::read_symlink("/proc/self/exe").parent_path() / "libassay_mpi.so";
  if (!fs::exists(module))
    throw BadInput("train.ranks: " + module.string() + " is not there, as this was built without MPI; install libopenmpi-dev and "
                   "openmpi-bin and build again, or set train.ranks = 1");
  // Open MPI's own plugins look for its symbols globally.
  void* handle = dlopen(module.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!handle) throw BadInput(std::string("train.ranks: MPI cannot be loaded (") + dlerror() + "); set train.ranks = 1");
  const auto entry = reinterpret_cast<decltype(&ASSAY_MPI_ENTRY)>(dlsym(handle, ASSAY_MPI_ENTRY_NAME));
  if (!entry) throw BadInput(module.string() + " is of another build: it lacks " ASSAY_MPI_ENTRY_NAME "; build again");
  return *entry();
}

}  // namespace

Ranks::Ranks() = default;
Ranks::Ranks(Ranks&& other) noexcept { *this = std::move(other); }

bool started_as_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

Ranks Ranks::join(std::int64_t wanted) {
  const ranks::Table& mpi = open_module();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // mpirun, or Slurm's step daemon
  return join(wanted, mpi);
}

Ranks Ranks::join(std::int64_t wanted, const ranks::Table& over) {
  Ranks all;
  all.mpi_ = &over;
  over.join(&all.rank_, &all.size_);
  if (all.size_ != wanted) {
    const std::string message = "train.ranks is " + std::to_string(wanted) + ", and " + std::to_string(all.size_) +
                                " processes were started; start as many as the config says";
    all.leave();
    throw BadInput(message);
  }
  return all;
}

Ranks& Ranks::operator=(Ranks&& other) noexcept {
  mpi_ = std::exchange(other.mpi_, nullptr);
  gpus_ = std::move(other.gpus_);
  rank_ = other.rank_;
  size_ = other.size_;
  return *this;
}

// Unfinished business with MPI means that the others are still in it: they must not wait for us.
Ranks::~Ranks() {
  if (mpi_) abort(exit_fault);
}

bool Ranks::gather(const void* mine, const std::vector<std::int64_t>& bytes, void* all) {
  if (!mpi_->gather(mine, bytes.data(), all, stop_requested)) throw Stopped{};
  return true;
}

std::vector<std::string> Ranks::gather(const std::string& mine) {
  if (!mpi_) return {mine};
  const auto size = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(size_));
  gather(&size, std::vector<std::int64_t>(sizes.size(), sizeof size), sizes.data());
  std::int64_t total = 0;
  for (const auto bytes : sizes) total += bytes;
  std::string whole(static_cast<std::size_t>(total), '\0');
  gather(mine.data(), sizes, whole.data());
  std::vector<std::string> parts;
  std::size_t at = 0;
  for (const auto bytes : sizes) {
    parts.push_back(whole.substr(at, static_cast<std::size_t>(bytes)));
    at += static_cast<std::size_t>(bytes);
  }
  return parts;
}

// Each rank sums one part of the values, from all ranks, and the parts are put together again.
void Ranks::sum(const at::Tensor& values) {
  if (!mpi_) return;
  TORCH_INTERNAL_ASSERT(values.scalar_type() == at::kFloat && values.dim() == 1 && values.is_contiguous());
  TORCH_INTERNAL_ASSERT(gpus_ || values.is_cpu());
  const at::NoGradGuard no_grad;
  if (gpus_) gpus_->meet();
  for (std::int64_t from = 0; from < values.numel(); from += kPiece) {
    const at::Tensor piece = values.narrow(0, from, std::min(kPiece, values.numel() - from));
    std::vector<std::int64_t> bytes;
    for (int r = 0; r < size_; ++r) {
      const auto [begin, end] = share(piece.numel(), r);
      bytes.push_back((end - begin) * static_cast<std::int64_t>(sizeof(float)));
    }
    const auto [begin, end] = share(piece.numel());
    const at::Tensor received = at::empty({size_, end - begin}, values.options());
    if (gpus_)
      gpus_->exchange(piece, bytes, received);
    else if (!mpi_->exchange(piece.const_data_ptr(), bytes.data(), received.mutable_data_ptr(), stop_requested))
      throw Stopped{};
    at::Tensor sum = at::zeros({end - begin}, values.options().dtype(at::kDouble));
    for (std::int64_t r = 0; r < size_; ++r) sum.add_(received[r]);
    const at::Tensor part = sum.to(at::kFloat);
    if (gpus_)
      gpus_->gather(part, bytes, piece);
    else
      gather(part.const_data_ptr(), bytes, piece.mutable_data_ptr());
  }
}

void Ranks::use(std::unique_ptr<GpuRanks> gpus) { gpus_ = std::move(gpus); }

bool Ranks::given_up() const { return stop_requested() || (mpi_ && mpi_->given_up()); }

std::vector<double> Ranks::everyones(const double* values, std::int64_t n) {
  std::vector<double> all(static_cast<std::size_t>(n * size_));
  gather(values, std::vector<std::int64_t>(static_cast<std::size_t>(size_), n * static_cast<std::int64_t>(sizeof(double))), all.data());
  return all;
}

void Ranks::sum(double* values, std::int64_t n) {
  if (!mpi_) return;
  const auto all = everyones(values, n);
  std::fill_n(values, n, 0.0);
  for (std::size_t i = 0; i < all.size(); ++i) values[static_cast<std::int64_t>(i) % n] += all[i];
}

void Ranks::max(double* values, std::int64_t n) {
  if (!mpi_) return;
  const auto all = everyones(values, n);
  for (std::size_t i = 0; i < all.size(); ++i) {
    double& value = values[static_cast<std::int64_t>(i) % n];
    value = std::max(value, all[i]);
  }
}

void Ranks::farewell() {
  gpus_.reset();
  if (const auto* mpi = std::exchange(mpi_, nullptr)) mpi->farewell();
}

// A signal may have come to another rank when it was too late for this one: that rank then waits in farewell().
void Ranks::leave() {
  const auto* mpi = std::exchange(mpi_, nullptr);
  if (!mpi) return;
  const char mine = 0;
  std::string all(static_cast<std::size_t>(size_), '\0');
  const std::vector<std::int64_t> one(all.size(), 1);
  const bool together = mpi->gather(&mine, one.data(), all.data(), [] { return false; });
  gpus_.reset();
  if (together)
    mpi->leave();
  else
    mpi->farewell();
}

void Ranks::abort(int code) {
  if (const auto* mpi = std::exchange(mpi_, nullptr)) mpi->abort(code);
}

}  // namespace assay::train

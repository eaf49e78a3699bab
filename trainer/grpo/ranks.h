// The processes of one run: each works on its share of the prompts, and all hold the same adapter.
//
// Every rank makes the same collective calls in the same order. While one waits in such a call it obeys a stop signal
// (stop.h: Stopped), its own or another rank's. Sums are formed in the order of the ranks, in double: the same bits on
// every rank and in every run with as many ranks.
//
// Numbers and text go over MPI. Tensors do too where they are on the CPU; on GPUs over NCCL (gpu_ranks.h), added by the same
// operations in the same order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace assay::train {

namespace ranks {
struct Table;
}

class GpuRanks;

class Ranks {
 public:
  Ranks();  // alone: rank 0 of 1, where all calls are free
  // Joins the others, for a process that mpirun or srun has started as one of `wanted`. Throws BadInput when there are
  // another number of them, or MPI is missing.
  static Ranks join(std::int64_t wanted);
  static Ranks join(std::int64_t wanted, const ranks::Table& over);  // over something else than MPI, for tests
  ~Ranks();
  Ranks(Ranks&& other) noexcept;
  Ranks& operator=(Ranks&& other) noexcept;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool leads() const { return rank_ == 0; }  // the one that writes the run folder

  // [begin, end) of n things that are this rank's.
  std::pair<std::int64_t, std::int64_t> share(std::int64_t n) const { return share(n, rank_); }
  std::pair<std::int64_t, std::int64_t> share(std::int64_t n, int rank) const {
    return {n * rank / size_, n * (rank + 1) / size_};
  }

  // Every rank's bytes, in the order of the ranks.
  std::vector<std::string> gather(const std::string& mine);
  // values [n] of float32, contiguous; on a GPU after use().
  void sum(const at::Tensor& values);
  void sum(double* values, std::int64_t n);
  void max(double* values, std::int64_t n);

  // What tensors are summed over from here on.
  void use(std::unique_ptr<GpuRanks> gpus);
  bool given_up() const;  // a stop signal came, here or to another rank that has said farewell

  // How a rank ends; the last call. Its destructor does the last of them where none was made.
  void farewell();       // early, at a signal: returns, on rank 0 at once, elsewhere when rank 0 has called it
  void leave();          // where all come to
  void abort(int code);  // at a fault: ends all ranks, and does not return unless alone

 private:
  bool gather(const void* mine, const std::vector<std::int64_t>& bytes, void* all);
  std::vector<double> everyones(const double* values, std::int64_t n);

  const ranks::Table* mpi_ = nullptr;
  std::unique_ptr<GpuRanks> gpus_;
  int rank_ = 0, size_ = 1;
};

// Whether mpirun or srun started this process as a rank.
bool started_as_rank();

// Starts `ranks` processes of this program with this process's arguments by mpirun and waits for them. SIGTERM and SIGINT are
// passed on so that the ranks can keep a checkpoint. Returns the exit code: theirs, or 1 with a sentence on stderr that
// names the rank that was ended by a signal. Throws BadInput where there is no mpirun.
int launch_ranks(std::int64_t ranks);

}  // namespace assay::train

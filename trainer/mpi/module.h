// The one symbol of libassay_mpi.so: MPI as the trainer uses it, as plain functions, so that assay-train links no MPI.
#pragma once

#include <cstdint>

namespace assay::train::ranks {

// Called from one thread only. Every rank makes the same calls in the same order.
struct Table {
  // MPI_Init. The number of this process, from 0, and of all of them.
  void (*join)(int* rank, int* size);
  // Each rank's bytes to every rank, one behind the other in the order of the ranks. counts: bytes of each rank, all known
  // to everybody. While it waits it asks give_up(), and whether another rank has said farewell: then it returns false, and
  // nothing but farewell() may follow.
  bool (*gather)(const void* mine, const std::int64_t* counts, void* all, bool (*give_up)());
  // From each rank, for rank r, the bytes counts[r]; to each rank r what the others have for it, each of the size
  // counts[own rank].
  bool (*exchange)(const void* mine, const std::int64_t* counts, void* received, bool (*give_up)());
  // Whether another rank has said farewell: what give_up() is for waiting elsewhere.
  bool (*given_up)();
  // An early end without agreement. Rank 0 calls it when it has written down what it wants to; the others wait in it for
  // rank 0, whom it tells to give up too.
  void (*farewell)();
  void (*leave)();          // MPI_Finalize, by all
  void (*abort)(int code);  // ends all ranks
};

}  // namespace assay::train::ranks

// The number goes up when Table changes, so that a module left over from another build is refused.
#define ASSAY_MPI_ENTRY assay_mpi_table_2
#define ASSAY_MPI_ENTRY_NAME "assay_mpi_table_2"
extern "C" __attribute__((visibility("default"))) const assay::train::ranks::Table* ASSAY_MPI_ENTRY();

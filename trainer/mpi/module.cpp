// libassay_mpi.so. Sees MPI and nothing of LibTorch.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "trainer/mpi/module.h"

namespace {

using assay::train::ranks::Table;

enum Tag : int { kStop = 1, kDone = 2 };  // to rank 0: give up; from rank 0: it has ended its part

int own = 0, count = 1;

// Errors of MPI end all ranks with MPI's own message (MPI_ERRORS_ARE_FATAL, the default).
int checked(std::int64_t bytes) {
  if (bytes >= 0 && bytes <= std::numeric_limits<int>::max()) return static_cast<int>(bytes);
  std::fprintf(stderr, "assay-train: a message between ranks of %lld bytes is more than MPI can carry\n", static_cast<long long>(bytes));
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

void join(int* rank, int* size) {
  int given = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
  MPI_Comm_rank(MPI_COMM_WORLD, &own);
  MPI_Comm_size(MPI_COMM_WORLD, &count);
  *rank = own;
  *size = count;
}

bool told_to_give_up() {
  int flag = 0;
  MPI_Iprobe(own == 0 ? MPI_ANY_SOURCE : 0, own == 0 ? kStop : kDone, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
  return flag != 0;
}

// Between two looks it sleeps: ranks may share cores, and waiting must not take them from the one that is waited for.
void rest(long& nanoseconds) {
  if (nanoseconds > 0) {
    const timespec pause{0, nanoseconds};
    nanosleep(&pause, nullptr);
  }
  if (nanoseconds < 200'000) nanoseconds = nanoseconds == 0 ? 1000 : nanoseconds * 2;
}

bool wait(MPI_Request request, bool (*give_up)()) {
  long pause = 0;
  for (int spins = 0;; ++spins) {
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) return true;
    if (give_up() || told_to_give_up()) return false;
    if (spins > 1000) rest(pause);
  }
}

bool gather(const void* mine, const std::int64_t* counts, void* all, bool (*give_up)()) {
  std::vector<int> sizes, places;
  std::int64_t total = 0;
  for (int r = 0; r < count; ++r) {
    sizes.push_back(checked(counts[r]));
    places.push_back(checked(total));
    total += counts[r];
  }
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgatherv(mine, sizes[static_cast<std::size_t>(own)], MPI_BYTE, all, sizes.data(), places.data(), MPI_BYTE,
                  MPI_COMM_WORLD, &request);
  return wait(request, give_up);
}

bool exchange(const void* mine, const std::int64_t* counts, void* received, bool (*give_up)()) {
  std::vector<int> send_sizes, send_places, sizes, places;
  std::int64_t sent = 0, total = 0;
  for (int r = 0; r < count; ++r) {
    send_sizes.push_back(checked(counts[r]));
    send_places.push_back(checked(sent));
    sizes.push_back(checked(counts[own]));
    places.push_back(checked(total));
    sent += counts[r];
    total += counts[own];
  }
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ialltoallv(mine, send_sizes.data(), send_places.data(), MPI_BYTE, received, sizes.data(), places.data(), MPI_BYTE,
                 MPI_COMM_WORLD, &request);
  return wait(request, give_up);
}

void farewell() {
  char nothing = 0;
  if (own == 0) {
    for (int r = 1; r < count; ++r) MPI_Send(&nothing, 1, MPI_BYTE, r, kDone, MPI_COMM_WORLD);  // small: sent at once
    return;
  }
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Isend(&nothing, 1, MPI_BYTE, 0, kStop, MPI_COMM_WORLD, &request);
  long pause = 1000;
  while (!told_to_give_up()) rest(pause);
}

void leave() { MPI_Finalize(); }

void abort_all(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

constexpr Table table{join, gather, exchange, farewell, leave, abort_all};

}  // namespace

extern "C" const Table* ASSAY_MPI_ENTRY() { return &table; }

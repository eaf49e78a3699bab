// libassay_mpi.so. Sees MPI and nothing of LibTorch.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
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

bool wait(MPI_Request& request, bool (*give_up)()) {
  long pause = 0;
  for (int spins = 0;; ++spins) {
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) return true;
    if (give_up() || told_to_give_up()) return false;
    if (spins > 1000) rest(pause);
  }
}

// What an operation in flight reads and writes is its own. A collective cannot be called off: one that was given up may
// still arrive while farewell() waits, so its memory is kept as long as the process is.
struct Operation {
  std::vector<char> out, in;
  std::vector<int> send_sizes, send_places, sizes, places;
  MPI_Request request = MPI_REQUEST_NULL;

  static bool finish(std::unique_ptr<Operation> operation, void* received, bool (*give_up)()) {
    if (wait(operation->request, give_up)) {
      std::memcpy(received, operation->in.data(), operation->in.size());
      return true;
    }
    static auto& abandoned = *new std::vector<std::unique_ptr<Operation>>;
    abandoned.push_back(std::move(operation));
    return false;
  }
};

void lay_out(const std::int64_t* counts, bool own_count, std::vector<int>& sizes, std::vector<int>& places, std::vector<char>& bytes) {
  std::int64_t total = 0;
  for (int r = 0; r < count; ++r) {
    const std::int64_t size = counts[own_count ? own : r];
    sizes.push_back(checked(size));
    places.push_back(checked(total));
    total += size;
  }
  bytes.resize(static_cast<std::size_t>(total));
}

bool gather(const void* mine, const std::int64_t* counts, void* all, bool (*give_up)()) {
  auto op = std::make_unique<Operation>();
  lay_out(counts, false, op->sizes, op->places, op->in);
  const int size = op->sizes[static_cast<std::size_t>(own)];
  op->out.assign(static_cast<const char*>(mine), static_cast<const char*>(mine) + size);
  MPI_Iallgatherv(op->out.data(), size, MPI_BYTE, op->in.data(), op->sizes.data(), op->places.data(), MPI_BYTE,
                  MPI_COMM_WORLD, &op->request);
  return Operation::finish(std::move(op), all, give_up);
}

bool exchange(const void* mine, const std::int64_t* counts, void* received, bool (*give_up)()) {
  auto op = std::make_unique<Operation>();
  lay_out(counts, false, op->send_sizes, op->send_places, op->out);
  lay_out(counts, true, op->sizes, op->places, op->in);
  std::memcpy(op->out.data(), mine, op->out.size());
  MPI_Ialltoallv(op->out.data(), op->send_sizes.data(), op->send_places.data(), MPI_BYTE, op->in.data(), op->sizes.data(),
                 op->places.data(), MPI_BYTE, MPI_COMM_WORLD, &op->request);
  return Operation::finish(std::move(op), received, give_up);
}

void farewell() {
  static char nothing = 0;  // the message may go out after this function has ended
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

constexpr Table table{join, gather, exchange, told_to_give_up, farewell, leave, abort_all};

}  // namespace

extern "C" const Table* ASSAY_MPI_ENTRY() { return &table; }

#include "tests/trainer/cuda/nccl.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/trainer/cuda/runtime.h"

namespace assay::test {
namespace {

constexpr int most_ranks = 4, looks_in_progress = 3;
constexpr std::size_t box_bytes = 32 << 20;

// From one rank to another, one piece at a time.
struct Box {
  std::atomic<std::uint64_t> sent, taken;
  std::size_t bytes;
};
// What the ranks share: a file without a name, which the id leads to. Zero in the beginning.
struct Shared {
  std::atomic<int> size;
  std::atomic<bool> here[most_ranks], gone[most_ranks];
  Box boxes[most_ranks][most_ranks];
};
constexpr std::size_t header_bytes = 1 << 16, shared_bytes = header_bytes + most_ranks * most_ranks * box_bytes;
static_assert(sizeof(Shared) <= header_bytes && std::atomic<std::uint64_t>::is_always_lock_free);

class Mapping {
 public:
  explicit Mapping(const char* path) {
    const int file = open(path, O_RDWR | O_CLOEXEC);
    memory_ = file < 0 ? MAP_FAILED : mmap(nullptr, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (file >= 0) close(file);
  }
  ~Mapping() {
    if (*this) munmap(memory_, shared_bytes);
  }
  Mapping(const Mapping&) = delete;
  explicit operator bool() const { return memory_ != MAP_FAILED; }
  Shared* operator->() const { return static_cast<Shared*>(memory_); }
  unsigned char* data(int from, int to) const {
    return static_cast<unsigned char*>(memory_) + header_bytes + static_cast<std::size_t>(from * most_ranks + to) * box_bytes;
  }

 private:
  void* memory_;
};

struct Op {
  bool sends;
  void* data;
  std::size_t bytes;
  int peer;
  cudaStream_t stream;
  std::uint64_t mark = 0;  // what the box counts when it has been sent
  bool done = false;
};

// One group's work on the device.
struct Flight {
  std::shared_ptr<Mapping> shared;
  int rank;
  std::vector<Op> ops;
  int number = 0;  // of those of this rank, from 1
  bool ended = false, wrong = false, done = false;
  mutable bool said_so = false;

  bool stalls() const {
    static const char* const file = std::getenv("ASSAY_NCCL_STAND_IN_STALL");
    if (!file || number < 3) return false;
    if (!said_so) std::ofstream(std::string(file) + "." + std::to_string(rank)) << getpid() << std::endl;
    return said_so = true;
  }

  bool step(Op& op) const {
    Box& box = op.sends ? (*shared)->boxes[rank][op.peer] : (*shared)->boxes[op.peer][rank];
    const bool empty = box.sent.load() == box.taken.load();
    if (op.sends && op.mark == 0 && empty) {
      std::memcpy(shared->data(rank, op.peer), op.data, op.bytes);
      box.bytes = op.bytes;
      op.mark = ++box.sent;
    }
    if (op.sends) return op.mark != 0 && box.taken.load() >= op.mark;
    if (empty) return false;
    if (box.bytes != op.bytes) throw std::length_error("");
    std::memcpy(op.data, shared->data(op.peer, rank), op.bytes);
    ++box.taken;
    return true;
  }

  bool step() {
    if (ended || wrong) return ended;
    if (stalls()) return false;
    bool all = true;
    std::set<std::pair<int, bool>> waiting;
    try {
      for (Op& op : ops) {
        const std::pair<int, bool> way(op.peer, op.sends);
        if (!op.done && waiting.count(way) == 0) op.done = step(op);
        if (op.done) continue;
        waiting.insert(way);
        all = false;
      }
    } catch (const std::length_error&) {
      wrong = true;
      return false;
    }
    return done = all;
  }
};

thread_local std::string last_error;
thread_local int depth = 0;
thread_local ncclResult_t group_error = ncclSuccess;
thread_local std::vector<std::pair<ncclComm_t, Op>> group;

std::mutex mutex;
std::set<const ncclComm*> communicators;

ncclResult_t refuse(ncclResult_t result, std::string words) {
  last_error = std::move(words);
  return result;
}
ncclResult_t injected(ncclResult_t& what) {
  if (what != ncclSuccess) last_error = nccl_stand_in().words;
  return std::exchange(what, ncclSuccess);
}

}  // namespace

NcclStandIn& nccl_stand_in() {
  static thread_local NcclStandIn own;
  return own;
}
int nccl_communicators() {
  const std::scoped_lock lock(mutex);
  return static_cast<int>(communicators.size());
}

}  // namespace assay::test

using namespace assay::test;

struct ncclComm {
  std::shared_ptr<Mapping> shared;
  int rank, size;
  int id_file = -1;  // that leads to what is shared, in the process that made it
  ncclResult_t state = ncclInProgress;
  int looks = looks_in_progress;
  std::shared_ptr<Flight> waiting, flying;  // not yet on its stream, and put there last
};

namespace {

bool known(ncclComm_t comm) {
  const std::scoped_lock lock(mutex);
  if (communicators.count(comm)) return true;
  ++nccl_stand_in().misuses;
  return false;
}

// A look at what goes on beside the host.
void progress(ncclComm& comm) {
  const auto& all = *comm.shared;
  bool here = true;
  for (int r = 0; r < comm.size; ++r) {
    here = here && all->here[r];
    const bool waits = comm.state == ncclInProgress || (comm.flying && !comm.flying->done);
    if (nccl_stand_in().network && all->gone[r] && waits) {
      comm.state = refuse(ncclRemoteError, "connection closed by rank " + std::to_string(r));
      return;
    }
  }
  if (comm.flying && comm.flying->wrong) comm.state = refuse(ncclInternalError, "a piece is not as long as what was sent");
  if (comm.state != ncclInProgress || !here || comm.looks-- > 0) return;
  comm.state = ncclSuccess;
  if (!comm.waiting) return;
  comm.flying = std::exchange(comm.waiting, nullptr);
  comm.flying->number = ++nccl_stand_in().groups;
  cuda::put(comm.flying->ops.front().stream, [flight = comm.flying] { return flight->step(); });
  comm.state = injected(nccl_stand_in().later);
}

ncclResult_t check(ncclComm& comm, const Op& op, ncclDataType_t type) {
  if (comm.state == ncclInProgress)
    return refuse(ncclInvalidArgument, "Attempt to use communicator before the previous operation returned ncclSuccess");
  if (comm.state != ncclSuccess) return comm.state;
  if (op.peer < 0 || op.peer >= comm.size || op.peer == comm.rank)
    return refuse(ncclInvalidArgument, "invalid root " + std::to_string(op.peer));
  if (type != ncclUint8) return refuse(ncclInvalidArgument, "invalid type " + std::to_string(type));
  if (op.bytes > box_bytes) return refuse(ncclInvalidArgument, "more than the stand-in can hold");
  for (const auto& [other, earlier] : group)
    if (other != &comm || earlier.stream != op.stream)
      return refuse(ncclInvalidUsage, "the stand-in's groups have one communicator and stream");
  return ncclSuccess;
}

ncclResult_t post(ncclComm_t comm, Op op, ncclDataType_t type) {
  if (!known(comm)) return group_error = refuse(ncclInvalidArgument, "corrupted comm object detected");
  ncclGroupStart();
  ncclResult_t result = check(*comm, op, type);
  try {
    if (result == ncclSuccess) op.data = cuda::behind(op.data);
  } catch (const std::logic_error&) {
    result = refuse(ncclInvalidArgument, "buff is not a valid pointer");
  }
  if (result == ncclSuccess) group.emplace_back(comm, op);
  else group_error = comm->state = result;
  ncclGroupEnd();
  return comm->state;
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError: return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}
const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (const ncclResult_t instead = injected(nccl_stand_in().get_id); instead != ncclSuccess) return instead;
  const int file = memfd_create("nccl", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(shared_bytes)) != 0)
    return refuse(ncclSystemError, "no file for the ranks to share");
  // Bytes behind the text matter as NCCL's do: who hands on less has another id.
  std::memset(id->internal, 'x', sizeof id->internal);
  const std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
  std::memcpy(id->internal, path.c_str(), path.size() + 1);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  *comm = nullptr;
  if (const ncclResult_t instead = injected(nccl_stand_in().init); instead != ncclSuccess) return instead;
  const ncclConfig_t wanted = NCCL_CONFIG_INITIALIZER;
  if (!config || config->size != wanted.size || config->magic != wanted.magic || config->version != wanted.version)
    return refuse(ncclInvalidArgument, "not of NCCL_CONFIG_INITIALIZER");
  if (config->blocking != 0)
    return refuse(ncclInvalidArgument, "the stand-in's communicators do not block");
  if (rank < 0 || rank >= size || size > most_ranks)
    return refuse(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(size));
  if (id.internal[sizeof id.internal - 1] != 'x') return refuse(ncclInvalidArgument, "not a whole id");
  auto shared = std::make_shared<Mapping>(id.internal);
  if (!*shared) return refuse(ncclSystemError, "nobody is found by the id");
  if (int none = 0; !(*shared)->size.compare_exchange_strong(none, size) && none != size)
    return refuse(ncclInvalidUsage, "ranks of different numbers of them");
  if ((*shared)->here[rank].exchange(true)) return refuse(ncclInvalidUsage, "a rank that is there already");
  const std::string own = "/proc/" + std::to_string(getpid()) + "/fd/";
  const bool first = rank == 0 && std::strncmp(id.internal, own.c_str(), own.size()) == 0;
  *comm = new ncclComm{.shared = std::move(shared), .rank = rank, .size = size, .waiting = nullptr, .flying = nullptr};
  if (first) (*comm)->id_file = std::atoi(id.internal + own.size());
  const std::scoped_lock lock(mutex);
  communicators.insert(*comm);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  if (!known(comm)) return refuse(ncclInvalidArgument, "corrupted comm object detected");
  progress(*comm);
  *result = comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (!comm) return ncclSuccess;
  if (depth > 0) ++nccl_stand_in().misuses;
  if (!known(comm)) return refuse(ncclInvalidArgument, "corrupted comm object detected");
  (*comm->shared)->gone[comm->rank] = true;
  if (comm->flying) comm->flying->ended = true;
  if (comm->id_file >= 0) close(comm->id_file);
  const std::scoped_lock lock(mutex);
  communicators.erase(comm);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd: not in a group call.");
  if (--depth > 0) return ncclSuccess;
  const auto ops = std::exchange(group, {});
  const ncclResult_t error = std::exchange(group_error, ncclSuccess), instead = injected(nccl_stand_in().group_end);
  if (error != ncclSuccess || instead != ncclSuccess) {
    for (const auto& [comm, op] : ops) comm->state = error != ncclSuccess ? error : instead;
    return error != ncclSuccess ? error : instead;
  }
  if (ops.empty()) return ncclSuccess;
  ncclComm& comm = *ops.front().first;
  comm.waiting = std::make_shared<Flight>(Flight{comm.shared, comm.rank, {}, {}});
  for (const auto& [_, op] : ops) comm.waiting->ops.push_back(op);
  comm.state = ncclInProgress;
  comm.looks = looks_in_progress;
  return ncclInProgress;
}

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return post(comm, {true, const_cast<void*>(data), count, peer, stream}, type);
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return post(comm, {false, data, count, peer, stream}, type);
}

}  // extern "C"

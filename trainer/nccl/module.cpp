// libassay_nccl.so. Its symbols of NCCL and of CUDA's half of LibTorch are found in the libraries that loader.cpp and
// trainer/cuda/loader.cpp open before it.
#include "trainer/nccl/module.h"

#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace assay::train::nccl {
namespace {

std::string said(ncclResult_t result, ncclComm_t comm) {
  std::string text = ncclGetErrorString(result);
  const char* last = ncclGetLastError(comm);
  std::string more = last ? last : "";
  more.resize(std::min(more.size(), more.find('\n')));
  if (!more.empty()) text += " (" + more + ")";
  return text;
}

// Never blocks: each call may say ncclInProgress, and ncclCommGetAsyncError() what became of it.
class Nccl : public Communicator {
 public:
  Nccl(const ncclUniqueId& id, int rank, int size) : rank_(rank), size_(size) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    keep(ncclCommInitRankConfig(&comm_, size, id, rank, &config));
  }
  ~Nccl() override { abort(); }

  void begin_nothing() override { begun(); }

  void begin(const Piece* to, const Piece* from) override {
    begun();
    if (!error_.empty()) return;
    keep(ncclGroupStart());
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      if (to[r].bytes > 0) keep(ncclSend(to[r].data, static_cast<std::size_t>(to[r].bytes), ncclUint8, r, comm_, stream_->stream()));
      if (from[r].bytes > 0) keep(ncclRecv(from[r].data, static_cast<std::size_t>(from[r].bytes), ncclUint8, r, comm_, stream_->stream()));
    }
    keep(ncclGroupEnd());
  }

  State state(std::string& why) override {
    if (error_.empty()) {
      ncclResult_t result = ncclSuccess;
      keep(ncclCommGetAsyncError(comm_, &result));
      if (result == ncclInProgress) return State::working;
      keep(result);
    }
    if (!error_.empty()) {
      why = error_;
      return State::failed;
    }
    if (!stream_) return State::done;
    if (!recorded_) done_.record(*stream_);  // not before: only now is all of it on the stream
    recorded_ = true;
    return done_.query() ? State::done : State::working;
  }

  void abort() override {
    if (comm_) ncclCommAbort(comm_);
    comm_ = nullptr;
    if (error_.empty()) error_ = "it was given up";
  }

 private:
  void begun() {
    stream_ = c10::cuda::getCurrentCUDAStream();
    recorded_ = false;
  }
  void keep(ncclResult_t result) {
    if (result != ncclSuccess && result != ncclInProgress && error_.empty()) error_ = said(result, comm_);
  }

  int rank_, size_;
  ncclComm_t comm_ = nullptr;
  std::optional<c10::cuda::CUDAStream> stream_;
  c10::cuda::CUDAEvent done_;
  bool recorded_ = false;
  std::string error_;
};

std::string make_id(std::string& why) {
  ncclUniqueId id{};
  if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
    why = said(result, nullptr);
    return "";
  }
  return {id.internal, sizeof id.internal};
}

Communicator* join(const std::string& text, int rank, int size) {
  ncclUniqueId id{};
  std::memcpy(id.internal, text.data(), std::min(text.size(), sizeof id.internal));
  return new Nccl(id, rank, size);
}

constexpr Table table{make_id, join};

}  // namespace
}  // namespace assay::train::nccl

extern "C" const assay::train::nccl::Table* ASSAY_NCCL_ENTRY() { return &assay::train::nccl::table; }

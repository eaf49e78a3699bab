// The one symbol of libassay_nccl.so: what the ranks' GPUs exchange without the host's memory in between.
#pragma once

#include <cstdint>
#include <string>

namespace assay::train::nccl {

struct Piece {
  void* data = nullptr;  // device memory
  std::int64_t bytes = 0;
};

// This rank's end of what connects the ranks' GPUs. Called from one thread, and by all ranks in the same order.
class Communicator {
 public:
  virtual ~Communicator() = default;  // lets go without waiting for the other ranks
  enum class State : std::uint8_t { working, done, failed };
  // What the current stream holds is done. Nothing else may be under way.
  virtual void begin_nothing() = 0;
  // For every other rank r: sends to[r] to it and receives from[r] from it, as many bytes as it sends, on the current stream
  // behind what was put there before. Both of `ranks` pieces, this rank's own unused. Returns at once.
  virtual void begin(const Piece* to, const Piece* from) = 0;
  // Of what was begun last, at first of the joining. failed: `why` says what NCCL says; nothing but abort() may follow.
  virtual State state(std::string& why) = 0;
  // Gives up what is under way, on the device too.
  virtual void abort() = 0;
};

struct Table {
  // What rank 0 hands to the others so that they find each other. Empty and `why` where NCCL finds no way to the network.
  std::string (*make_id)(std::string& why);
  // Begins to join; see state(). Lives until it is deleted.
  Communicator* (*join)(const std::string& id, int rank, int size);
};

}  // namespace assay::train::nccl

// The number goes up when something of this file changes, so that a module left over from another build is refused.
#define ASSAY_NCCL_ENTRY assay_nccl_table_1
#define ASSAY_NCCL_ENTRY_NAME "assay_nccl_table_1"
extern "C" __attribute__((visibility("default"))) const assay::train::nccl::Table* ASSAY_NCCL_ENTRY();

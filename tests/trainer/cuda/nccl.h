// A libnccl.so.2 that is not NCCL, between threads or processes of one machine: the ten calls of libassay_nccl.so, by the real
// header, as NCCL's documentation and its 2.28 describe them for a communicator that does not block.
//
//   Joining, and a group of sends and receives, are ncclInProgress for some looks by ncclCommGetAsyncError(); only with the last
//   of them is the group's work on its stream, behind what was there before. Any other use of the communicator until then is an
//   error.
//   What is sent is read, and what is received written, when the stream comes to it. A send is done when the other rank has taken
//   it; those of one group go on beside each other, those to one rank in their order.
//   Outside of a group each call is a group of its own. Arguments are checked, addresses too (as by NCCL_CHECK_POINTERS).
//   A communicator that is given up ends its work on the device. The other ranks see nothing of that but that no byte comes, or
//   where `network` is set ncclRemoteError, as over sockets.
// With $ASSAY_NCCL_STAND_IN_STALL=FILE the third group of each rank R is never done: FILE.R is there once it is waited for, and
// holds the number of the process.
// Stricter than NCCL: pieces of different size, and blocking communicators, are errors. Up to four ranks, 32 MiB a piece.
#pragma once

#include <nccl.h>

#include <string>

namespace assay::test {

// Of the rank that is this thread.
struct NcclStandIn {
  // What the next of these calls answers instead, `words` being NCCL's own beside it. `later`: what becomes of the next group,
  // when its work is on the stream.
  ncclResult_t get_id = ncclSuccess, init = ncclSuccess, group_end = ncclSuccess, later = ncclSuccess;
  std::string words;
  bool network = false;
  int groups = 0;   // of sends and receives, that were put on a stream
  int misuses = 0;  // that NCCL does not answer to: of what is no communicator, or no longer
};
NcclStandIn& nccl_stand_in();

int nccl_communicators();  // of all threads, that are not given up

}  // namespace assay::test

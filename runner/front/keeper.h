// The daemon's care of the warm process (warm.h).
#pragma once

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <memory>

namespace spdlog {
class logger;
}

namespace assay::runner {

class WarmKeeper {
 public:
  WarmKeeper(asio::io_context& io, int log_fd, std::shared_ptr<spdlog::logger> log);

  // Starts one where there is none: to be called when a run has been added, because the next is likely to follow. One that
  // ends is started again by the next call; three that end within a second of their start are the last, and the log says
  // so. Never throws: without it `assay add` takes longer, and nothing else is different.
  void wanted();

 private:
  void watch();

  int log_fd_;
  std::shared_ptr<spdlog::logger> log_;
  asio::posix::stream_descriptor life_;     // closed by the system when the process ends; the same pipe tells nothing else
  char buffer_[64];
  std::chrono::steady_clock::time_point started_;
  int in_vain_ = 0;
};

}  // namespace assay::runner

#include "runner/front/keeper.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <asio/buffer.hpp>
#include <cerrno>
#include <cstring>

#include "runner/process.h"

namespace assay::runner {

namespace {
constexpr int kInVain = 3;
}

WarmKeeper::WarmKeeper(asio::io_context& io, int log_fd, std::shared_ptr<spdlog::logger> log)
    : log_fd_(log_fd), log_(std::move(log)), life_(io) {}

void WarmKeeper::wanted() {
  if (life_.is_open() || in_vain_ >= kInVain) return;
  try {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
    Fd read_end(ends[0]), write_end(ends[1]);
    start_detached({"serve-adds"}, log_fd_, write_end.get());
    started_ = std::chrono::steady_clock::now();
    life_.assign(read_end.release());
    watch();
  } catch (const std::exception& error) {
    in_vain_ = kInVain;
    log_->warn("no process is kept warm for `assay add`: {}", error.what());
  }
}

void WarmKeeper::watch() {
  life_.async_read_some(asio::buffer(buffer_), [this](const asio::error_code& error, std::size_t) {
    if (error == asio::error::operation_aborted) return;
    if (!error) return watch();
    life_.close();
    in_vain_ = std::chrono::steady_clock::now() - started_ < std::chrono::seconds(1) ? in_vain_ + 1 : 0;
    if (in_vain_ == kInVain) log_->warn("no process is kept warm for `assay add`: three have ended at once; their last words are above");
  });
}

}  // namespace assay::runner

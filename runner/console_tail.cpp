#include "runner/console_tail.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runner/process.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kPiece = 1 << 20;        // bytes read at once; a longer line is passed over
constexpr std::int64_t kLinesUntilTold = 200;  // of text without a match
constexpr double kSecondsUntilTold = 60;       // since the first text, without a match

json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// One write, then the disk: what was read is never read again, so it must not be lost.
void append(const fs::path& file, const std::string& text) {
  const Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!fd) throw std::runtime_error(file.string() + ": " + std::strerror(errno));
  struct stat before {};
  ::fstat(fd.get(), &before);
  const ssize_t n = ::write(fd.get(), text.data(), text.size());
  if (n == static_cast<ssize_t>(text.size())) return;
  const int error = n < 0 ? errno : ENOSPC;
  [[maybe_unused]] const int undone = ::ftruncate(fd.get(), before.st_size);
  throw std::runtime_error(file.string() + ": " + std::strerror(error));
}

}  // namespace

ConsoleTail::ConsoleTail(fs::path folder, const std::string& kind, const std::string& regex)
    : folder_(std::move(folder)), kind_(kind) {
  const char* names[] = {"stdout.log", "stderr.log"};
  for (int i = 0; i < 2; ++i) {
    streams_[i].file = folder_ / names[i];
    streams_[i].parser = console::make_parser(kind, regex);
  }
}

void ConsoleTail::poll() {
  if (!unwritten_.empty()) append(folder_ / "metrics.jsonl", unwritten_);
  unwritten_.clear();
  for (Stream& stream : streams_) read(stream, false);
  if (matched_ > 0 || told_ || first_text_ == 0) return;
  if (streams_[0].lines + streams_[1].lines >= kLinesUntilTold || unix_now() - first_text_ >= kSecondsUntilTold)
    tell_no_match();
}

void ConsoleTail::finish() {
  poll();
  for (Stream& stream : streams_) read(stream, true);
  if (matched_ == 0 && !told_) tell_no_match();
}

void ConsoleTail::read(Stream& stream, bool last) {
  for (;;) {
    struct stat status {};
    if (::stat(stream.file.c_str(), &status) != 0 || status.st_size <= stream.offset) return;
    const Fd fd(::open(stream.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) throw std::runtime_error(stream.file.string() + ": " + std::strerror(errno));
    std::string piece(kPiece, '\0');
    const ssize_t n = ::pread(fd.get(), piece.data(), piece.size(), static_cast<off_t>(stream.offset));
    if (n < 0) throw std::runtime_error(stream.file.string() + ": " + std::strerror(errno));
    if (n == 0) return;
    piece.resize(static_cast<std::size_t>(n));
    if (first_text_ == 0) first_text_ = unix_now();

    std::string text;
    std::size_t used = 0;
    for (std::size_t end; (end = piece.find('\n', used)) != std::string::npos; used = end + 1) {
      if (!stream.skipping) take(stream, std::string_view(piece).substr(used, end - used), true, text);
      stream.skipping = false;
    }
    if (used == 0 && piece.size() == kPiece) {
      stream.skipping = true;
      used = piece.size();
    } else if (last && used < piece.size() && stream.offset + n >= status.st_size) {
      if (!stream.skipping) take(stream, std::string_view(piece).substr(used), false, text);
      used = piece.size();
    }
    if (used == 0) return;
    stream.offset += static_cast<std::int64_t>(used);
    unwritten_ += text;
    if (!unwritten_.empty()) append(folder_ / "metrics.jsonl", unwritten_);
    unwritten_.clear();
  }
}

void ConsoleTail::take(Stream& stream, std::string_view line, bool whole, std::string& text) {
  ++stream.lines;
  const auto found = stream.parser->line(line, whole);
  if (!found || found->points.empty()) return;
  ++matched_;
  json metrics = json::object();
  for (const console::Point& point : found->points) metrics[point.key] = number(point.value);
  text += json{{"step", found->step}, {"time", unix_now()}, {"metrics", metrics}}.dump(-1, ' ', false,
                                                                                      json::error_handler_t::replace) + "\n";
}

void ConsoleTail::tell_no_match() {
  const std::int64_t lines = streams_[0].lines + streams_[1].lines;
  const std::string message = "none of the " + std::to_string(lines) +
                              " lines of its console is one that trainer.metrics = \"" + kind_ + "\" reads";
  const json event = {{"time", unix_now()}, {"step", -1}, {"kind", "finding"}, {"message", message},
                      {"data", {{"id", "console-never-matches"}, {"lines", lines}}}};
  append(folder_ / "events.jsonl", event.dump() + "\n");
  told_ = true;
}

}  // namespace assay::runner

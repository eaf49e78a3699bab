// Files that are whole or not there, and lines that survive a crash.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace assay::support {

// Reads a whole file. Throws std::runtime_error "PATH: REASON".
std::string read_file(const std::filesystem::path& path);

// Replaces or makes a file so that a reader, or a crash, sees the old bytes or the new ones: temporary file beside it,
// fsync, rename, fsync of the folder. Throws std::runtime_error "PATH: REASON".
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

// Appends whole lines, each with one write(2), so that a reader never sees two lines mixed and a kill loses at most
// the line being written. Opens with O_APPEND | O_CREAT. Throws std::runtime_error "PATH: REASON".
class LineWriter {
 public:
  explicit LineWriter(const std::filesystem::path& path);
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  void write(std::string_view line);  // without the newline
  void sync();                        // fdatasync

 private:
  std::filesystem::path path_;
  int fd_;
};

// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path);  // throws as read_file; reads in pieces of 1 MiB

}  // namespace assay::support

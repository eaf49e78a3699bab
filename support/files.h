// Files that are whole or not there, and lines that survive a crash.
#pragma once

#include <filesystem>
#include <cstdint>
#include <string>
#include <string_view>

#include "support/fd.h"

namespace assay::support {

// Reads a whole file. Throws std::runtime_error "PATH: REASON".
std::string read_file(const std::filesystem::path& path);

// Is there a file of exactly these bytes? False as well where it cannot be read, or not at once. Not noted among looks.
bool file_holds(const std::filesystem::path& path, std::string_view bytes);

// A file that appears whole or not at all: a reader, or a crash, sees the old bytes or the new ones. What is written
// goes to PATH.tmp.PID beside it, which only a kill leaves behind. All throw std::runtime_error "PATH: REASON".
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();  // removes the temporary file unless it was committed
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::uint64_t offset, std::string_view bytes);  // in any order
  void commit();                                             // fsync, rename, fsync of the folder

 private:
  std::filesystem::path path_, temporary_;
  Fd fd_;
};

// Makes the names in a folder survive a crash.
void sync_folder(const std::filesystem::path& folder);

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
  std::int64_t size() const;          // bytes in the file
  // Exclusive, until the writer goes or its process ends. False: another process has it.
  bool lock();

 private:
  std::filesystem::path path_;
  int fd_;
};

// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path);  // throws as read_file; reads in pieces of 1 MiB

}  // namespace assay::support

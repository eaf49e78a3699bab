#include "support/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

// The algorithm without its EVP dress: that starts the whole of OpenSSL, its tables of names, ciphers and error texts and
// its configuration file, which takes longer than `assay add` takes for all the rest.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "support/fault_point.h"
#include "support/looks.h"

namespace assay::support {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, int error) {
  throw std::runtime_error(path.string() + ": " + std::strerror(error));
}

class Sha256 {
 public:
  Sha256() { check(SHA256_Init(&context_)); }
  void update(std::string_view bytes) { check(SHA256_Update(&context_, bytes.data(), bytes.size())); }
  std::string hex() {
    std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
    check(SHA256_Final(digest.data(), &context_));
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const unsigned char byte : digest) {
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
    return text;
  }

 private:
  static void check(int result) {
    if (result != 1) throw std::runtime_error("SHA-256 failed");
  }
  SHA256_CTX context_{};
};

}  // namespace

namespace {

Fd open_to_read(const std::filesystem::path& path, struct stat& status) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || ::fstat(fd.get(), &status) != 0) fail(path, errno);
  if (S_ISDIR(status.st_mode)) fail(path, EISDIR);   // opening a folder succeeds
  return fd;
}

// As many bytes as the file gives, `size` at most; 0 at its end.
std::size_t read_some(const std::filesystem::path& path, const Fd& fd, char* to, std::size_t size) {
  for (;;) {
    const ssize_t n = ::read(fd.get(), to, size);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) fail(path, errno);
  }
}

}  // namespace

namespace {

constexpr std::size_t kLongestNoted = 1 << 20;   // bytes of a text that is kept to be compared

std::string read_whole(const std::filesystem::path& path) {
  struct stat status {};
  const Fd fd = open_to_read(path, status);
  // One more than it says, so that its end is seen; files of /proc say nothing.
  std::string text(status.st_size > 0 ? static_cast<std::size_t>(status.st_size) + 1 : 4096, '\0');
  std::size_t filled = 0;
  while (const std::size_t n = read_some(path, fd, text.data() + filled, text.size() - filled)) {
    filled += n;
    if (filled == text.size()) text.resize(2 * text.size());
  }
  text.resize(filled);
  return text;
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  Looks* const looks = Looks::current();
  if (looks == nullptr) return read_whole(path);
  try {
    std::string text = read_whole(path);
    if (text.size() > kLongestNoted) looks->spoil();
    else looks->add([path, text] { return read_whole(path) == text; });
    return text;
  } catch (...) {
    looks->spoil();
    throw;
  }
}

bool file_holds(const std::filesystem::path& path, std::string_view bytes) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return false;
  std::string there(bytes.size() + 1, '\0');   // one more, so that a longer one is seen
  const ssize_t n = ::read(fd.get(), there.data(), there.size());   // a file gives all it has at once
  return n == static_cast<ssize_t>(bytes.size()) && std::string_view(there.data(), bytes.size()) == bytes;
}

AtomicFile::AtomicFile(const std::filesystem::path& path)
    : path_(path), temporary_(path.string() + ".tmp." + std::to_string(::getpid())) {
  fd_ = Fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd_.get() < 0) fail(path_, errno);
}

AtomicFile::~AtomicFile() {
  if (fd_.get() >= 0) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      fail(path_, errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_.get()) != 0) fail(path_, errno);
  fault_point("file: synced");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, errno);
  fd_ = Fd();
  fault_point("file: renamed");
  sync_folder(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
}

void sync_folder(const std::filesystem::path& folder) {
  const Fd dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.get() < 0 || ::fsync(dir.get()) != 0) fail(folder, errno);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(0, bytes);
  file.commit();
}

LineWriter::LineWriter(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ < 0) fail(path, errno);
}

LineWriter::~LineWriter() { ::close(fd_); }

void LineWriter::write(std::string_view line) {
  std::string whole(line);
  whole += '\n';
  std::string_view left = whole;
  while (!left.empty()) {
    const ssize_t n = ::write(fd_, left.data(), left.size());
    if (n >= 0) {
      left.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno != EINTR) {
      const int error = errno;
      // What a full disk took of it must not stand at the head of the next line.
      const auto written = static_cast<off_t>(whole.size() - left.size());
      struct stat status {};
      if (written > 0 && ::fstat(fd_, &status) == 0 && status.st_size >= written)
        [[maybe_unused]] const int cut = ::ftruncate(fd_, status.st_size - written);
      fail(path_, error);
    }
  }
}

void LineWriter::sync() {
  if (::fdatasync(fd_) != 0) fail(path_, errno);
}

std::int64_t LineWriter::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail(path_, errno);
  return static_cast<std::int64_t>(status.st_size);
}

bool LineWriter::lock() {
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return true;
  if (errno != EWOULDBLOCK) fail(path_, errno);
  return false;
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
  struct stat status {};
  const Fd fd = open_to_read(path, status);
  Sha256 hash;
  std::array<char, 1 << 14> buffer;   // more costs a page fault each 4 KiB and reads no faster
  while (const std::size_t n = read_some(path, fd, buffer.data(), buffer.size())) hash.update({buffer.data(), n});
  return hash.hex();
}

}  // namespace assay::support

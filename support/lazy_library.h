// A C library that is opened when the first of its functions is called, and not before.
//
// libgit2 and libarchive bring 25 more libraries with them, and the loader takes longer over those than most commands take
// in all. A file that uses such a library includes its header, names the functions it calls, and goes on as if it were
// linked:
//
//   assay::support::LazyLibrary& libarchive() {
//     static assay::support::LazyLibrary library(ASSAY_LIBARCHIVE, "libarchive-dev");
//     return library;
//   }
//   #define archive_read_new ASSAY_LAZY(libarchive, archive_read_new)
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace assay::support {

class LazyLibrary {
 public:
  // `file`: as the linker would have noted it (SONAME); `package`: the Debian package that brings it. Throws
  // std::runtime_error with one sentence when it cannot be loaded. Never closed: libraries do not like that.
  LazyLibrary(const char* file, const char* package)
      : file_(file), package_(package), handle_(::dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) fail();
  }

  void* function(const char* name) const {
    void* found = ::dlsym(handle_, name);
    if (found == nullptr) fail();
    return found;
  }

 private:
  [[noreturn]] void fail() const {
    throw std::runtime_error(std::string(file_) + ": cannot be used (" + ::dlerror() + "); type `apt-get install " +
                             package_ + "`");
  }

  const char* file_;
  const char* package_;
  void* handle_;
};

}  // namespace assay::support

// The function `name` of the library that `library()` returns; looked up once.
#define ASSAY_LAZY(library, name)                                                                        \
  (*[] {                                                                                                 \
    static const auto function_ = reinterpret_cast<decltype(&::name)>(library().function(#name));        \
    return function_;                                                                                    \
  }())

#include "heap.h"

#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstddef>

namespace {

std::atomic<std::int64_t> now{0}, peak{0};

[[maybe_unused]] void* taken(void* p) {
  if (!p) return p;
  const auto bytes = static_cast<std::int64_t>(malloc_usable_size(p));
  const std::int64_t total = now.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  std::int64_t most = peak.load(std::memory_order_relaxed);
  while (total > most && !peak.compare_exchange_weak(most, total, std::memory_order_relaxed)) {
  }
  return p;
}
[[maybe_unused]] void given_back(void* p) {
  if (p) now.fetch_sub(static_cast<std::int64_t>(malloc_usable_size(p)), std::memory_order_relaxed);
}

}  // namespace

#if !defined(__SANITIZE_ADDRESS__)
// The program's definitions take the place of glibc's, also for the libraries that it loads.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* p, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* p);

void* malloc(std::size_t size) { return taken(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) { return taken(__libc_calloc(count, size)); }
void* realloc(void* p, std::size_t size) {
  const auto before = p ? static_cast<std::int64_t>(malloc_usable_size(p)) : 0;
  void* const to = __libc_realloc(p, size);
  if (to || size == 0) now.fetch_sub(before, std::memory_order_relaxed);
  return taken(to);
}
void* memalign(std::size_t alignment, std::size_t size) { return taken(__libc_memalign(alignment, size)); }
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** p, std::size_t alignment, std::size_t size) {
  void* const made = memalign(alignment, size);
  if (!made) return ENOMEM;
  *p = made;
  return 0;
}
void free(void* p) {
  given_back(p);
  __libc_free(p);
}
}
#endif

namespace assay::test {

#if defined(__SANITIZE_ADDRESS__)
bool heap_is_counted() { return false; }
#else
bool heap_is_counted() { return true; }
#endif
std::int64_t heap_bytes() { return now.load(); }
std::int64_t heap_peak() { return peak.load(); }
void start_heap_peak() { peak.store(now.load()); }

}  // namespace assay::test

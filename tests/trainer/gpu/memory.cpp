#include "tests/trainer/gpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <new>
#include <stdexcept>

namespace assay::test {
namespace {

constexpr std::size_t capacity = std::size_t{8} << 30;  // of addresses; memory is taken as it is used
constexpr std::size_t granule = 512;                    // as LibTorch's allocator for CUDA

// Up to an eighth more, so that few sizes are asked for and what was given back fits again.
std::size_t rounded(std::size_t bytes) {
  const std::size_t step = std::max(granule, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

}  // namespace

struct GpuMemory::Pool {
  Free free;
  ~Pool() {
    GpuMemory& memory = instance();
    const std::scoped_lock lock(memory.mutex_);
    for (auto& [size, places] : free)
      for (const std::size_t place : places) {
        memory.fill(place, size);
        memory.free_[size].push_back(place);
      }
  }
};

GpuMemory& GpuMemory::instance() {
  static auto* memory = new GpuMemory;  // tensors may outlive all statics
  return *memory;
}

GpuMemory::GpuMemory() {
  const int file = memfd_create("gpu", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(capacity)) != 0) throw std::runtime_error("no memory to stand in for a GPU's");
  const auto map = [&](int protection) {
    void* at = mmap(nullptr, capacity, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (at == MAP_FAILED) throw std::runtime_error("no addresses to stand in for a GPU's");
    return static_cast<std::uint8_t*>(at);
  };
  device_ = map(PROT_NONE);
  host_ = map(PROT_READ | PROT_WRITE);
  close(file);
}

void GpuMemory::fill(std::size_t place, std::size_t bytes) { std::memset(host_ + place, 0xff, bytes); }

void* GpuMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::scoped_lock lock(mutex_);
  const std::size_t size = rounded(bytes);
  auto& places = (pool_ ? pool_->free : free_)[size];
  std::size_t place = top_;
  if (!places.empty()) {
    place = places.back();
    places.pop_back();
  } else if (top_ + size > capacity) {
    throw std::bad_alloc();
  } else {
    top_ += size;
    fill(place, size);
  }
  blocks_[place] = {size, pool_};
  used_ += size;
  peak_ = std::max(peak_, used_);
  return device_ + place;
}

void GpuMemory::release(void* memory) {
  if (!memory) return;
  std::shared_ptr<Pool> last;  // let go of behind the lock
  const std::scoped_lock lock(mutex_);
  const auto place = static_cast<std::size_t>(static_cast<std::uint8_t*>(memory) - device_);
  const auto found = blocks_.find(place);
  if (found == blocks_.end()) std::abort();  // given back twice
  fill(place, found->second.size);
  used_ -= found->second.size;
  last = found->second.pool;
  (last ? last->free : free_)[found->second.size].push_back(place);
  blocks_.erase(found);
}

bool GpuMemory::holds(const void* p) const {
  return p >= device_ && p < device_ + capacity;
}

void* GpuMemory::behind(const void* p) const {
  if (!p) return nullptr;
  if (!holds(p)) throw std::logic_error("an address of the host was given to the device");
  return host_ + (static_cast<const std::uint8_t*>(p) - device_);
}

std::shared_ptr<GpuMemory::Pool> GpuMemory::new_pool() { return std::make_shared<Pool>(); }

void GpuMemory::use_pool(std::shared_ptr<Pool> pool) {
  const std::scoped_lock lock(mutex_);
  pool_.swap(pool);
}

void GpuMemory::before_write(const void* p) {
  if (!p) return;
  const std::scoped_lock lock(mutex_);
  const auto block = std::prev(blocks_.upper_bound(static_cast<std::size_t>(static_cast<const std::uint8_t*>(p) - device_)));
  if (block->second.pool == pool_) return;
  auto& copy = kept_[block->first];
  if (copy.empty()) copy.assign(host_ + block->first, host_ + block->first + block->second.size);
}

void GpuMemory::undo() {
  const std::scoped_lock lock(mutex_);
  for (const auto& [place, copy] : kept_)  // what was let go of since holds ones already
    if (blocks_.count(place)) std::memcpy(host_ + place, copy.data(), copy.size());
  kept_.clear();
}

}  // namespace assay::test

// Memory of a GPU that is not there, for LibTorch's tensors on "cuda". It lies at two addresses: tensors hold the one that the
// host can neither read nor write, as on a GPU, and what stands in for a kernel works behind it. So host code that touches a
// device's tensor ends with a segmentation fault, which Catch2 reports with the test's name.
//
// Memory that is handed out, and memory that is given back, is filled with ones: NaN as a number, -1 as an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace assay::test {

class GpuMemory {
 public:
  static GpuMemory& instance();

  void* allocate(std::size_t bytes);  // null for 0
  void release(void* memory);
  std::size_t peak() const { return peak_; }

  bool holds(const void* p) const;
  // The address that the host may use, of a device's; null of null. Throws std::logic_error for an address of the host.
  void* behind(const void* p) const;
  template <class T>
  T* behind(T* p) const {
    return static_cast<T*>(const_cast<void*>(static_cast<const void*>(behind(static_cast<const void*>(p)))));
  }

  // Blocks that only one graph's capture takes and gives back, so that they stay its own until all of `Pool` is let go of.
  struct Pool;
  std::shared_ptr<Pool> new_pool();
  void use_pool(std::shared_ptr<Pool> pool);  // null: the common one

  // Keeps what the block at p holds, unless it is the pool's own; undo() puts it back, whatever has been written since.
  void before_write(const void* p);
  void undo();

 private:
  using Free = std::map<std::size_t, std::vector<std::size_t>>;  // places by size
  struct Block {
    std::size_t size;
    std::shared_ptr<Pool> pool;
  };
  GpuMemory();
  void fill(std::size_t place, std::size_t bytes);

  mutable std::mutex mutex_;
  std::uint8_t *device_, *host_;
  std::size_t top_ = 0, used_ = 0, peak_ = 0;
  Free free_;
  std::map<std::size_t, Block> blocks_;
  std::map<std::size_t, std::vector<std::uint8_t>> kept_;
  std::shared_ptr<Pool> pool_;
};

}  // namespace assay::test

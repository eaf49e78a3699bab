// Reading (memory-mapped) and writing of safetensors. No LibTorch here: bytes, shapes and dtypes only.
// Format: 8 bytes little-endian header length, JSON header, data. https://github.com/huggingface/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/files.h"

namespace assay::support {

struct TensorView {
  std::string dtype;                 // F32 | BF16 | F16 | …
  std::vector<std::int64_t> shape;   // row-major; empty: a scalar
  const std::byte* data = nullptr;   // little-endian, valid as long as the file object; other writers' files need not
                                     // align it to the element size
  std::size_t bytes = 0;
};

// Bits of one element, 0 for a dtype that the format does not have.
int dtype_bits(const std::string& dtype);

class SafetensorsFile {
 public:
  // Maps the file; costs the header only. Throws std::runtime_error "FILE: WHAT; WHAT TO DO" when it is truncated, its
  // header is not what the format says (bad JSON, a name twice, an unknown dtype), or the tensors' bytes lie outside of
  // the file, overlap, leave holes or do not match the shape. A file that another program shortens later is not caught.
  static SafetensorsFile open(const std::filesystem::path& file);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  const std::map<std::string, TensorView>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;
  // Bytes [offset, offset + size) of one of tensors(), by pread: unlike a look at view.data this adds nothing to the
  // process's resident memory, and a file that was shortened meanwhile is an error instead of SIGBUS.
  void read(const TensorView& view, std::size_t offset, void* out, std::size_t size) const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What the header says of a tensor to be written.
struct TensorEntry {
  std::string dtype;
  std::vector<std::int64_t> shape;
};

// Writes a file piece by piece, in any order; it appears, whole, with finish(). The same input gives the same bytes: wide
// elements first, then by name (so that each tensor is aligned to its element size without holes, as the safetensors
// package orders them), data aligned to 8 bytes. Memory: the header only. All throw std::runtime_error: a dtype that the
// format does not have, bits that do not fill bytes, or the file's I/O error.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& file, const std::map<std::string, TensorEntry>& tensors,
                    std::map<std::string, std::string> metadata = {});
  // The bytes of `name` from `offset` on; inside of the tensor, each byte once (asserted by finish()).
  void write(const std::string& name, std::uint64_t offset, const void* bytes, std::size_t size);
  // For what is known only after the data: a key that is there already, and a value that takes as many bytes in JSON.
  void replace_metadata(const std::string& key, const std::string& value);
  void finish();

 private:
  struct Place {
    std::string name;
    TensorEntry entry;
    std::uint64_t begin, bytes, written = 0;
  };
  std::string header() const;

  std::filesystem::path file_;
  std::vector<Place> places_;  // in the order of the file
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
  std::uint64_t data_ = 0;     // where the first tensor starts
  AtomicFile out_;
};

// The same at once. Throws also for a tensor whose bytes do not match its shape.
void write_safetensors(const std::filesystem::path& file, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace assay::support

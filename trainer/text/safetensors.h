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

namespace assay::train {

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
  const std::map<std::string, TensorView>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// All weights of a Hugging Face folder: model.safetensors, or the shards that model.safetensors.index.json lists.
// model.safetensors wins when there are both, as in transformers.
class Checkpoint {
 public:
  // Throws as SafetensorsFile::open; also when the folder has neither, a shard is missing, or index and shards disagree.
  static Checkpoint open(const std::filesystem::path& folder);
  const TensorView* find(const std::string& name) const;  // nullptr: there is none
  std::vector<std::string> names() const;                 // sorted

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorView*> tensors_;
};

// Writes atomically (temporary file, fsync, rename). The same input gives the same bytes: wide elements first, then by
// name (so that each tensor is aligned to its element size without holes, as the safetensors package orders them), data
// aligned to 8 bytes. Throws std::runtime_error: a tensor whose bytes do not match its shape, or the file's I/O error.
void write_safetensors(const std::filesystem::path& file, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace assay::train

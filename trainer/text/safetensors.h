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
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;   // valid as long as the file object
  std::size_t bytes = 0;
};

class SafetensorsFile {
 public:
  // Maps the file. Throws std::runtime_error "FILE: WHAT" when it is truncated, its header is not what the format
  // says, or a tensor's bytes lie outside of the file or do not match its shape.
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
class Checkpoint {
 public:
  static Checkpoint open(const std::filesystem::path& folder);
  const TensorView* find(const std::string& name) const;  // nullptr: there is none
  std::vector<std::string> names() const;

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorView*> tensors_;
};

// Writes atomically; tensors in name order, data aligned to 8 bytes, so the same input gives the same bytes.
void write_safetensors(const std::filesystem::path& file, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace assay::train

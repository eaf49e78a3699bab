// Fake-quantizes or packs a model on disk, tensor by tensor and piece by piece: memory does not grow with the tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "quant/checkpoint/layout.h"
#include "quant/stats.h"
#include "support/safetensors.h"

namespace assay::quant {

struct QuantizeOptions {
  Spec spec;
  int axis = 1;
  bool pack = false;
  // Which tensors, by name; empty: quantized_by_default(). What is included and not excluded must be quantizable.
  std::function<bool(const std::string& name)> include, exclude;
};

// The weights of linear layers: a name ending in ".weight", two dimensions, and a module that is not named as embeddings
// and output heads are (unquantized_modules()). Convolutions and norms have other numbers of dimensions.
bool quantized_by_default(const std::string& name, const std::vector<std::int64_t>& shape);
const std::vector<std::string>& unquantized_modules();

struct TensorReport {
  std::string name, dtype;
  std::int64_t rows = 0, cols = 0;
  ErrorStats stats;  // of the values that are written (packed: that they dequantize to), in the tensor's dtype
};

class QuantizeModel {
 public:
  // in: a safetensors file, or a model folder (its other files are copied). Reads headers, checks everything that can be
  // known before the first byte is written; whatever it throws (std::runtime_error, "WHERE: WHAT; WHAT TO DO") is the
  // fault of the input or of the options.
  QuantizeModel(const std::filesystem::path& in, const std::filesystem::path& out, const QuantizeOptions& options);
  ~QuantizeModel();

  // What will be quantized; run() fills in the stats.
  const std::vector<TensorReport>& tensors() const;
  std::int64_t kept() const;  // tensors that stay as they are
  Layout layout() const;      // of a packed model
  // Why it is Layout::assay; empty when it is not.
  const std::string& why_not_compressed_tensors() const;

  // Writes `out` whole or not at all: under another name beside it first, which only a kill leaves behind. Throws
  // std::runtime_error: a fault of the disk. Reads the input twice where a tensor scale is needed. One thread.
  // `done` is called after each quantized tensor.
  void run(const std::function<void(const TensorReport&)>& done = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::quant

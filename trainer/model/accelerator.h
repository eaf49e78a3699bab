// What decoding asks of a device beyond LibTorch's own operations. trainer/cuda/ implements it; tests have one of their own.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

namespace assay::train {

class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual std::string name() const = 0;         // as "NVIDIA H200, compute capability 9.0"
  virtual std::string identity() const = 0;     // of this device and no other, on whatever machine
  virtual at::Device device() const = 0;        // what tensors are moved to
  virtual double peak_memory_gb() const = 0;    // most of the device's memory that tensors have held so far, GiB

  // Does `work` with a stream of its own as the current one, behind all that was begun before; what comes after waits for it.
  // Throws what `work` throws.
  virtual void on_own_stream(const std::function<void()>& work) = 0;

  // Device work recorded once and begun again with one call each.
  class Graph {
   public:
    virtual ~Graph() = default;
    virtual void replay() = 0;  // returns at once
  };
  // Records what `work` would do on the device, without doing it; within on_own_stream() only. `work` has been done once
  // before, and neither waits for the device nor chooses by what is on it.
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& work) = 0;

  // A copy of a tensor on its way to the host.
  class Fetch {
   public:
    virtual ~Fetch() = default;
    virtual at::Tensor wait() = 0;  // on the CPU, as the tensor was when the copy was begun
  };
  virtual std::unique_ptr<Fetch> fetch(const at::Tensor& tensor) = 0;  // returns at once
};

}  // namespace assay::train

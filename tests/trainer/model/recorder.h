// An accelerator without a device: its "graphs" do on the CPU, at each replay, what they were recorded of.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>

#include "trainer/model/accelerator.h"

namespace assay::test {

class Recorder : public train::Accelerator {
 public:
  std::string name() const override { return "a recorder"; }
  std::string identity() const override { return "none"; }
  at::Device device() const override { return at::kCPU; }
  double peak_memory_gb() const override { return 0; }
  void on_own_stream(const std::function<void()>& work) override { work(); }
  std::unique_ptr<Graph> capture(const std::function<void()>& work) override {
    struct Recorded : Graph {
      Recorded(std::function<void()> w, int& n) : work(std::move(w)), replays(n) {}
      void replay() override {
        ++replays;
        work();
      }
      std::function<void()> work;
      int& replays;
    };
    ++captures;
    return std::make_unique<Recorded>(work, replays);
  }
  std::unique_ptr<Fetch> fetch(const at::Tensor& tensor) override {
    struct Copy : Fetch {
      at::Tensor value;
      at::Tensor wait() override { return value; }
    };
    auto copy = std::make_unique<Copy>();
    copy->value = tensor.clone();
    return copy;
  }
  int captures = 0, replays = 0;
};

}  // namespace assay::test

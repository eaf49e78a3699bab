// What tests/parity/quant/packed_parity.py calls:
//   packed_cli MODEL OUT.safetensors mode|checkpoint
// The packed weights of a folder or file, dequantized to fp32: to what the mode means (MODEL written by assay), or to what
// the checkpoint alone says.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "quant/checkpoint/packed_model.h"

int main(int argc, char** argv) {
  using namespace assay;
  const std::string what = argc == 4 ? argv[3] : "";
  if (what != "mode" && what != "checkpoint") {
    std::fprintf(stderr, "packed_cli: see the head of packed_cli.cpp for its arguments\n");
    return 2;
  }
  try {
    const auto model = quant::PackedModel::open(argv[1]);
    std::map<std::string, std::vector<float>> values;
    std::map<std::string, support::TensorView> views;
    for (const std::string& module : model.modules()) {
      const quant::PackedWeight weight = model.load(module);
      auto& out = values[module];
      out.resize(static_cast<std::size_t>(weight.packed.rows * weight.packed.cols));
      if (what == "mode" && !weight.mode_known) throw std::runtime_error(module + ": nothing says its mode");
      what == "mode" ? quant::dequantize(weight, out.data()) : quant::dequantize_as_checkpoint(weight, out.data());
      views[module + ".weight"] = {"F32", {weight.packed.rows, weight.packed.cols},
                                   reinterpret_cast<const std::byte*>(out.data()), out.size() * sizeof(float)};
    }
    support::write_safetensors(argv[2], views);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "packed_cli: %s\n", error.what());
    return 1;
  }
}

// The SRDD scan: what the activation quantizers of a model do to what passes through them, layer by layer.
//
// S  signal to quantization noise, 10 log10(sum x^2 / sum (xq - x)^2)
// R  relative error, mean |xq - x| / mean |x|
// D  dead zone: share of all elements that are not 0 and become 0
// D  saturation: share of all elements whose magnitude is above the largest that their block can hold, and is cut to it
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "trainer/model/decoder.h"

namespace assay::train {

struct ScanError {
  double sqnr_db = 0, relative_error = 0, dead_share = 0, saturated_share = 0;
  std::int64_t elements = 0;  // 0: no quantizer acts here, and the figures mean nothing
};

struct ScanThresholds {
  double sqnr_db = 20, relative_error = 0.10, dead_share = 0.05, saturated_share = 0.01;
};
// Which figures are on the wrong side of their thresholds: "sqnr", "relative_error", "dead", "saturated".
std::vector<std::string> exceeded(const ScanError& error, const ScanThresholds& thresholds = {});

struct LayerScan {
  ScanError error;  // over the layer's distinct quantizer inputs: q, k and v share one
  std::vector<std::pair<std::string, ScanError>> modules;
};

// Runs `prompts` through the decoder, its adapter off, as its activation quantizers act in training (in rollout where they
// do not act in training), and leaves phase and observer as they were. One entry a layer. Throws std::runtime_error when
// no activation quantizer is attached. Cost: a forward pass and about as much again for the figures.
std::vector<LayerScan> scan(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts);

nlohmann::json scan_json(const std::vector<LayerScan>& layers, const ScanThresholds& thresholds = {});
std::string scan_text(const std::vector<LayerScan>& layers, const ScanThresholds& thresholds = {});

}  // namespace assay::train

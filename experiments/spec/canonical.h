// Config ↔ canonical JSON, and its SHA-256.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "experiments/spec/config.h"

namespace assay::spec {

// Every field, defaults included; keys sorted, no white space, shortest round-trip numbers.
// The same Config gives the same bytes on every machine.
std::string canonical_json(const Config& config);
std::string derived_json(const Derived& derived);

// Reads what canonical_json() wrote, of this assay or an older one: a key that was not there yet means what was in force then
// (docs/run-folder.md). Throws std::runtime_error naming the key that is missing, unknown or of a wrong type.
Config config_from_json(const nlohmann::json& json);
Derived derived_from_json(const nlohmann::json& json);

// Lower-case hexadecimal SHA-256 of canonical_json(config).
std::string config_hash(const Config& config);

// The words of quant.mode for a format, as quant/formats.h names them, the default first; none: empty.
std::vector<std::string> modes_of(const std::string& format);
// Whether a mode has an fp32 scale over the tensor (or token), which quant.tensor_scale is about.
bool has_tensor_scale(const std::string& mode);
// Whether the sampler's log-probs are the trainer's, bit for bit, on the CPU (docs/decisions.md, 6): a token's activations
// depend neither on its batch nor on whether it is sampled or trained on.
bool batch_invariant(const Config& config);
// The mode that an empty quant.mode stands for: nvfp4: te; mxfp4: floor; none: empty.
std::string default_mode(const std::string& format);

// What the quantizer of a run is called wherever an accuracy is reported: "none", "nvfp4/te W4A4 pre row ste",
// "mxfp4/floor W4A4 post row no-ste", "nvfp4/te W4A16 row" (weights only), "… training-only", "… except …".
// One line, stable: evaluations carry it, and two evaluations compare as like with like when it is equal.
std::string quant_label(const QuantConfig& quant);

}  // namespace assay::spec

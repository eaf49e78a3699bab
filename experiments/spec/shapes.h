// Shapes of models without their weights: experiments/shapes/NAME/config.json.
#pragma once

#include <filesystem>
#include <string>

namespace assay::spec {

// The folder shapes/NAME, beside the series in one of the places that resolve_series() looks in, whose config.json says the
// shape of the model of that name; empty: there is none.
std::filesystem::path find_shape(const std::string& model);

}  // namespace assay::spec

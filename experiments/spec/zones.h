// noise.zones: strengths for ranges of layers, written "FIRST-LAST: MULTIPLIER", "LAYER: MULTIPLIER" or
// "FIRST-: MULTIPLIER" (to the last layer). Layers count from 0; what no zone names has no noise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace assay::spec {

struct Zone {
  std::int64_t first = 0, last = -1;  // last -1: to the end
  double multiplier = 0;
};

// One entry; what is wrong with it goes to `fault`, which stays empty otherwise.
Zone parse_zone(const std::string& text, std::string& fault);

// Multipliers of `layers` layers. The first thing wrong with `zones` goes to `fault`: a form that is none, a layer that is
// not there, one that two zones name.
std::vector<double> zone_multipliers(const std::vector<std::string>& zones, std::int64_t layers, std::string& fault);

}  // namespace assay::spec

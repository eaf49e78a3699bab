#include "experiments/spec/zones.h"

#include <charconv>
#include <cmath>

namespace assay::spec {

namespace {

template <class T>
bool whole(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Zone parse_zone(const std::string& text, std::string& fault) {
  Zone zone;
  const auto colon = text.find(':');
  const std::string range = text.substr(0, colon);
  std::string number = colon == std::string::npos ? "" : text.substr(colon + 1);
  number.erase(0, number.find_first_not_of(' '));
  const auto dash = range.find('-');
  bool good = whole(range.substr(0, dash), zone.first) && whole(number, zone.multiplier) && std::isfinite(zone.multiplier) &&
              zone.multiplier >= 0;
  if (dash == std::string::npos)
    zone.last = zone.first;
  else if (dash + 1 < range.size())
    good = good && whole(range.substr(dash + 1), zone.last) && zone.last >= zone.first;
  if (!good || zone.first < 0)
    fault = "noise.zones: \"" + text + "\" is no zone; write \"0-3: 1.5\", \"4: 1\" or \"5-: 0.5\", layers from 0 and a multiplier";
  return zone;
}

std::vector<double> zone_multipliers(const std::vector<std::string>& zones, std::int64_t layers, std::string& fault) {
  std::vector<double> multipliers(static_cast<std::size_t>(layers), 0.0);
  std::vector<bool> named(multipliers.size());
  for (const std::string& text : zones) {
    const Zone zone = parse_zone(text, fault);
    if (!fault.empty()) return multipliers;
    const std::int64_t last = zone.last < 0 ? layers - 1 : zone.last;
    if (zone.first >= layers || last >= layers) {
      fault = "noise.zones: \"" + text + "\" names a layer that is not there; the model has layers 0 to " + std::to_string(layers - 1);
      return multipliers;
    }
    for (auto layer = static_cast<std::size_t>(zone.first); layer <= static_cast<std::size_t>(last); ++layer) {
      if (named[layer]) {
        fault = "noise.zones: layer " + std::to_string(layer) + " stands in two zones, the second is \"" + text + "\"";
        return multipliers;
      }
      named[layer] = true;
      multipliers[layer] = zone.multiplier;
    }
  }
  return multipliers;
}

}  // namespace assay::spec

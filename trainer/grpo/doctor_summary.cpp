#include "trainer/grpo/doctor_summary.h"

#include <algorithm>
#include <cmath>

namespace assay::train {
namespace {

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

std::map<std::string, Count> by_projection(const Measurements& m) {
  std::map<std::string, Count> counts;
  for (const auto& gradient : m.gradients) {
    auto& count = counts[last_part(gradient.projection)];
    ++count.all;
    count.with += gradient.non_zero;
  }
  return counts;
}

Count total(const Measurements& m) {
  Count count;
  for (const auto& gradient : m.gradients) {
    ++count.all;
    count.with += gradient.non_zero;
  }
  return count;
}

MeanError mean_error(const Measurements& m) {
  std::map<std::string, double> weights, activations;
  const auto keep_worse = [](std::map<std::string, double>& worst, const std::string& projection, double sqnr) {
    if (!std::isfinite(sqnr)) return;
    const auto [entry, is_new] = worst.emplace(projection, sqnr);
    if (!is_new) entry->second = std::min(entry->second, sqnr);
  };
  for (std::size_t i = 0; i < m.errors.size(); ++i) {
    const auto& error = m.errors[i];
    const auto& projection = m.report.modules[i].projection;
    if (error.weight_sqnr_db != 0) keep_worse(weights, projection, error.weight_sqnr_db);
    if (error.activation) keep_worse(activations, projection, error.activation_sqnr_db);
  }
  const auto average = [](const std::map<std::string, double>& values) {
    double sum = 0;
    for (const auto& [projection, value] : values) sum += value;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
  };
  return {average(weights), average(activations), static_cast<std::int64_t>(weights.size()),
          static_cast<std::int64_t>(activations.size())};
}

}  // namespace assay::train

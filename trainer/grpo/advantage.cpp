#include "trainer/grpo/advantage.h"

#include <cassert>
#include <cmath>
#include <numeric>

namespace assay::train {

AdvantageKind parse_advantage(std::string_view name) {
  assert(name == "std" || name == "dr_grpo");
  return name == "std" ? AdvantageKind::std : AdvantageKind::dr_grpo;
}

std::vector<double> group_advantages(const std::vector<double>& rewards, std::int64_t group_size, AdvantageKind kind) {
  assert(group_size > 0 && rewards.size() % static_cast<std::size_t>(group_size) == 0);
  std::vector<double> advantages(rewards.size());
  const auto n = static_cast<double>(group_size);
  for (auto at = 0L; at < static_cast<std::int64_t>(rewards.size()); at += group_size) {
    const auto begin = rewards.begin() + at, end = begin + group_size;
    double mean = 0, deviation = 1;
    if (group_size > 1) {
      mean = std::accumulate(begin, end, 0.0) / n;
      double squares = 0;
      for (auto r = begin; r != end; ++r) squares += (*r - mean) * (*r - mean);
      deviation = std::sqrt(squares / (n - 1));
    }
    for (auto i = at; i < at + group_size; ++i) {
      const double centred = rewards[static_cast<std::size_t>(i)] - mean;
      advantages[static_cast<std::size_t>(i)] =
          kind == AdvantageKind::std ? centred / (deviation + 1e-6) : centred;
    }
  }
  return advantages;
}

bool has_spread(const std::vector<double>& rewards, std::int64_t group_size, std::int64_t group) {
  const auto begin = rewards.begin() + group * group_size;
  for (auto i = begin; i != begin + group_size; ++i)
    if (*i != *begin) return true;
  return false;
}

}  // namespace assay::train

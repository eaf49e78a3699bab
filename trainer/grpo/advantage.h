// Group-relative advantages.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace assay::train {

enum class AdvantageKind : std::uint8_t {
  std,      // (r - mean) / (std + 1e-6), std unbiased; a group of one has mean 0 and std 1 (DeepSeekMath 2402.03300, verl)
  dr_grpo,  // r - mean (Dr.GRPO 2503.20783)
};
AdvantageKind parse_advantage(std::string_view name);  // "std" | "dr_grpo"; anything else is a programmer's error

// rewards: P * G, the samples of a prompt beside each other. In double throughout.
std::vector<double> group_advantages(const std::vector<double>& rewards, std::int64_t group_size, AdvantageKind kind);

// True when not all rewards of the group are equal.
bool has_spread(const std::vector<double>& rewards, std::int64_t group_size, std::int64_t group);

}  // namespace assay::train

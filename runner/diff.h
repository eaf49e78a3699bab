// What differs between two runs: configuration, code, environment, data, metrics, evaluations, records.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::runner {

struct MetricPair {
  std::string key;
  std::optional<double> a, b;            // nothing: that run has no such point
};

struct MetricsDifference {
  std::size_t compared = 0, equal = 0;   // points (step, key) that either has; both have, bit for bit
  std::optional<std::int64_t> parts_at;  // the first step with a point that is not equal
  std::vector<MetricPair> there;         // all of those at that step
  double largest = 0;                    // relative difference |a-b| / max(|a|, |b|), over all; infinite where one lacks
  std::string largest_key;
  std::int64_t largest_step = 0;
};
// Keys under timing_s/ and perf/ are left out: they are not the same twice. NaN equals NaN.
MetricsDifference compare_metrics(const registry::Registry& registry, std::int64_t a, std::int64_t b);

// Leaves of two JSON texts that are not the same, as [{"key": "optimizer.lr", "a", "b"}…]; null: not there.
nlohmann::json compare_json(const std::string& a, const std::string& b);

// [{"path", "role", "a": sha256 | null, "b"}…] of two inputs.json: files are told by role and name, not by folder.
nlohmann::json compare_inputs(const std::string& a, const std::string& b);

// {"a", "b": {"number", "run", "series", "seed", "folder"}, "config", "code", "dirty_diff": {"same", "only_a", "only_b"},
//  "environment", "inputs", "metrics": {"compared", "equal", "parts_at", "there", "largest", …},
//  "evaluations": [{"step", "quant", "a", "b", "problems", "different"}], "records": [{"kind", "subject", "a", "b"}]}
nlohmann::json difference(const registry::Registry& registry, const registry::RunRow& a, const registry::RunRow& b);
std::string difference_text(const nlohmann::json& difference);

// What verify compares beside the metrics. Files that are in one of the folders only, or whose bytes differ, with the first
// byte that does; of safetensors also the first tensor. [{"file", "what"}…], by name.
nlohmann::json compare_files(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace assay::runner

#include "trainer/grpo/coverage_watch.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace assay::train {

CoverageWatch::CoverageWatch(std::vector<std::string> tensors)
    : tensors_(std::move(tensors)), state_{.covered = std::vector<bool>(tensors_.size())} {}

void CoverageWatch::add(std::int64_t step, const Batch& batch, const UpdateResult& update, double lr, MetricsLog& log) {
  auto& [covered, moved, done] = state_;
  if (done) return;
  for (std::size_t i = 0; i < covered.size(); ++i) covered[i] = covered[i] || update.covered[i];
  const bool signal = std::any_of(batch.advantages.begin(), batch.advantages.end(), [](double a) { return a != 0; });
  const bool ripe = moved || update.without_graph > 0;
  moved = moved || (signal && update.updates > 0 && lr > 0);
  if (!ripe || !signal) return;
  done = true;

  nlohmann::json without = nlohmann::json::array();
  for (std::size_t i = 0; i < covered.size(); ++i)
    if (!covered[i]) without.push_back(tensors_[i]);
  if (without.empty()) return;
  const auto count = std::to_string(without.size()), all = std::to_string(tensors_.size());
  log.event(step, "finding",
            count + " of " + all + " adapter tensors have had no gradient so far; `assay-train doctor` on this run folder says why",
            {{"id", "no-gradient"}, {"tensors", without}});
}

}  // namespace assay::train

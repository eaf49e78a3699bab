#include "trainer/grpo/scan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "quant/packed.h"
#include "quant/stats.h"

namespace assay::train {
namespace {

struct Sums {
  quant::ErrorStats stats;
  std::int64_t clipped = 0;
};

// Elements at the largest code that were larger still.
std::int64_t clipped_in(const quant::Packed& packed, const float* x, const float* xq) {
  std::int64_t clipped = 0;
  for (std::int64_t r = 0; r < packed.rows; ++r)
    for (std::int64_t c = 0; c < packed.cols; ++c) {
      const auto byte = packed.codes[static_cast<std::size_t>(r * packed.code_bytes() + c / 2)];
      const int code = c % 2 ? byte >> 4 : byte & 15;
      const auto i = r * packed.cols + c;
      clipped += (code & 7) == 7 && std::abs(x[i]) > std::abs(xq[i]);
    }
  return clipped;
}

void add(Sums& to, const Sums& part) {
  const auto& p = part.stats;
  auto& s = to.stats;
  s.sum_x2 += p.sum_x2;
  s.sum_err2 += p.sum_err2;
  s.sum_abs += p.sum_abs;
  s.sum_abs_err += p.sum_abs_err;
  s.count += p.count;
  s.dead += p.dead;
  s.non_finite += p.non_finite;
  to.clipped += part.clipped;
}

ScanError figures(const Sums& sums) {
  ScanError error;
  error.elements = sums.stats.count + sums.stats.non_finite;
  if (error.elements == 0) return error;
  error.sqnr_db = sums.stats.sqnr_db();
  error.relative_error = sums.stats.relative_abs();
  error.dead_share = sums.stats.dead_share();
  error.saturated_share = static_cast<double>(sums.clipped) / static_cast<double>(error.elements);
  return error;
}

std::int64_t layer_of(const std::string& module) {
  constexpr std::string_view prefix = "model.layers.";
  return std::stoll(module.substr(prefix.size()));
}

// Phase, adapter and observer as they were, whatever happens.
class Restored {
 public:
  explicit Restored(Decoder& decoder) : decoder_(decoder), phase_(decoder.phase()) {}
  ~Restored() {
    decoder_.set_observer({});
    decoder_.set_adapter(true);
    decoder_.set_phase(phase_);
  }
  Restored(const Restored&) = delete;

 private:
  Decoder& decoder_;
  Phase phase_;
};

nlohmann::json json_of(const ScanError& error, const ScanThresholds& thresholds) {
  if (error.elements == 0) return {{"elements", 0}};
  // Without any error the ratio is infinite, and JSON has no word for that.
  const auto sqnr = std::isfinite(error.sqnr_db) ? nlohmann::json(error.sqnr_db) : nlohmann::json("inf");
  return {{"elements", error.elements},          {"sqnr_db", sqnr},
          {"relative_error", error.relative_error}, {"dead_share", error.dead_share},
          {"saturated_share", error.saturated_share}, {"exceeded", exceeded(error, thresholds)}};
}

}  // namespace

std::vector<std::string> exceeded(const ScanError& error, const ScanThresholds& thresholds) {
  std::vector<std::string> names;
  if (error.elements == 0) return names;
  if (error.sqnr_db < thresholds.sqnr_db) names.push_back("sqnr");
  if (error.relative_error > thresholds.relative_error) names.push_back("relative_error");
  if (error.dead_share > thresholds.dead_share) names.push_back("dead");
  if (error.saturated_share > thresholds.saturated_share) names.push_back("saturated");
  return names;
}

std::vector<LayerScan> scan(Decoder& decoder, const std::vector<std::vector<std::int32_t>>& prompts) {
  const at::NoGradGuard no_grad;
  const Restored restored(decoder);
  const auto layers = static_cast<std::size_t>(decoder.shape().layers);
  const quant::Spec spec = decoder.activation_spec();
  std::vector<Sums> sums(layers);
  std::vector<std::vector<std::pair<std::string, Sums>>> modules(layers);
  std::vector<at::Tensor> seen;  // inputs and results of the present layer
  std::int64_t present = -1;
  const auto observe = [&](const std::string& module, const at::Tensor& x, const at::Tensor& xq) {
    const auto layer = static_cast<std::size_t>(layer_of(module));
    if (layer_of(module) != present) seen.clear();
    present = layer_of(module);
    const at::Tensor from = x.to(at::kCPU).contiguous(), to = xq.to(at::kCPU).contiguous();
    const std::int64_t cols = from.size(-1), rows = from.numel() / cols;
    Sums one;
    quant::accumulate(one.stats, from.const_data_ptr<float>(), to.const_data_ptr<float>(), from.numel());
    one.clipped = clipped_in(quant::pack(spec, from.const_data_ptr<float>(), rows, cols, 1), from.const_data_ptr<float>(),
                             to.const_data_ptr<float>());
    auto& list = modules[layer];
    auto place = std::find_if(list.begin(), list.end(), [&](const auto& entry) { return entry.first == module; });
    if (place == list.end()) place = list.insert(list.end(), {module, Sums{}});
    add(place->second, one);
    bool fresh = true;
    for (const auto& tensor : seen) fresh = fresh && !tensor.is_same(x);
    if (fresh) add(sums[layer], one);
    seen.push_back(x);
    seen.push_back(xq);
  };
  decoder.set_adapter(false);
  for (const Phase phase : {Phase::evaluation, Phase::rollout}) {
    decoder.set_observer(observe);
    decoder.set_phase(phase);
    // A few prompts at a time: memory, and the tensor scale of a batch such as training has.
    for (std::size_t at = 0; at < prompts.size(); at += 16) {
      const auto end = std::min(at + 16, prompts.size());
      decoder.prefill(rows_of({prompts.begin() + static_cast<std::ptrdiff_t>(at), prompts.begin() + static_cast<std::ptrdiff_t>(end)}));
      seen.clear();
      present = -1;
    }
    bool any = false;
    for (const auto& list : modules) any = any || !list.empty();
    if (any) break;
  }
  std::vector<LayerScan> result(layers);
  bool any = false;
  for (std::size_t i = 0; i < layers; ++i) {
    result[i].error = figures(sums[i]);
    for (const auto& [module, one] : modules[i]) result[i].modules.emplace_back(module, figures(one));
    any = any || result[i].error.elements > 0;
  }
  if (!any) throw std::runtime_error("no activation is quantized, so there is nothing to scan");
  return result;
}

nlohmann::json scan_json(const std::vector<LayerScan>& layers, const ScanThresholds& thresholds) {
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    auto entry = json_of(layers[i].error, thresholds);
    entry["layer"] = i;
    entry["modules"] = nlohmann::json::array();
    for (const auto& [module, error] : layers[i].modules) {
      entry["modules"].push_back(json_of(error, thresholds));
      entry["modules"].back()["module"] = module;
    }
    list.push_back(entry);
  }
  return {{"layers", list},
          {"thresholds",
           {{"sqnr_db", thresholds.sqnr_db},
            {"relative_error", thresholds.relative_error},
            {"dead_share", thresholds.dead_share},
            {"saturated_share", thresholds.saturated_share}}}};
}

std::string scan_text(const std::vector<LayerScan>& layers, const ScanThresholds& thresholds) {
  std::string text = "layer  SQNR dB  rel. error %  dead %  saturated %  beyond its threshold\n";
  char line[160];
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const ScanError& e = layers[i].error;
    if (e.elements == 0) {
      std::snprintf(line, sizeof line, "%5zu  no activation is quantized\n", i);
      text += line;
      continue;
    }
    std::string marks;
    for (const auto& name : exceeded(e, thresholds)) marks += (marks.empty() ? "" : ", ") + name;
    std::snprintf(line, sizeof line, "%5zu  %7.2f  %12.2f  %6.2f  %11.3f  %s\n", i, e.sqnr_db, 100 * e.relative_error,
                  100 * e.dead_share, 100 * e.saturated_share, marks.empty() ? "-" : marks.c_str());
    text += line;
  }
  std::snprintf(line, sizeof line, "thresholds: SQNR below %g dB, relative error above %g %%, dead above %g %%, saturated above %g %%\n",
                thresholds.sqnr_db, 100 * thresholds.relative_error, 100 * thresholds.dead_share,
                100 * thresholds.saturated_share);
  return text + line;
}

}  // namespace assay::train

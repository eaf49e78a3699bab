#include "trainer/grpo/memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <fstream>
#include <new>
#include <regex>
#include <tuple>

namespace assay::train {
namespace {

std::string sentence(const Batched& b, const std::string& asked) {
  std::string text = "out of memory while " + b.work + " " + std::to_string(b.in_use) + " " + b.unit + " at once" + asked + "; ";
  const std::int64_t half = std::max(b.least, b.in_use / 2 / b.least * b.least);
  if (half < b.in_use) return text + "try " + b.key + " = " + std::to_string(half);
  return text + b.key + " cannot be smaller: try a smaller rollout.max_response_length, or train.memory = \"lean\"";
}

// " (3.2 GB more were asked for)", of LibTorch's message; the CPU allocator throws no type of its own.
std::string asked_for(const std::string& message) {
  std::smatch match;
  if (std::regex_search(message, match, std::regex("tried to allocate ([0-9]+) bytes")))
    return " (" + std::to_string(std::stoll(match[1]) / 1000000) + " MB more were asked for)";
  if (std::regex_search(message, match, std::regex("Tried to allocate ([0-9.]+ [KMG]iB)")))  // CUDA's
    return " (" + match[1].str() + " more were asked for on the GPU)";
  return "";
}

}  // namespace

Batched sampling_at_once(const spec::Config& config) {
  const auto& [rollout, grpo] = std::tie(config.rollout, config.grpo);
  const std::int64_t all = (grpo.gen_batch_size ? grpo.gen_batch_size : grpo.train_batch_size) * rollout.samples_per_prompt;
  return {"sampling", "rollout.batch_size", "sequences", rollout.batch_size ? std::min(rollout.batch_size, all) : all,
          rollout.samples_per_prompt};
}

Batched updating_at_once(const spec::Config& config) {
  const std::int64_t all = config.grpo.mini_batch_size;
  return {"updating on", "grpo.micro_batch_size", "prompts", config.grpo.micro_batch_size ? config.grpo.micro_batch_size : all, 1};
}

Batched evaluating_at_once(const spec::Config& config, std::int64_t problems) {
  return {"evaluating", "eval.batch_size", "problems", config.eval.batch_size ? std::min(config.eval.batch_size, problems) : problems, 1};
}

bool is_out_of_memory(const std::exception& error) {
  return dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const c10::OutOfMemoryError*>(&error) ||
         (dynamic_cast<const c10::Error*>(&error) && std::string(error.what()).find("can't allocate memory") != std::string::npos);
}

double peak_memory_gb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / (1024.0 * 1024.0);
  throw std::runtime_error("/proc/self/status: there is no VmHWM in it");
}

void within_memory(const Batched& batched, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    throw OutOfMemory(sentence(batched, asked_for(error.what())));
  }
}

}  // namespace assay::train

#include "trainer/grpo/checkpoint.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "experiments/spec/canonical.h"
#include "support/files.h"
#include "support/safetensors.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/exit_code.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;
constexpr const char* kFiles[] = {"adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors",
                                  "checkpoint.json"};
constexpr const char* kSums = "SHA256SUMS";   // of all of them, as sha256sum(1) writes and checks it
constexpr const char* kUnfinished = ".unfinished", *kGoing = ".going";

json to_json(const Position& position, const Machine& machine, const MetricsLog::End& log, const std::string& config) {
  return {{"format", kFormat},
          {"config_sha256", config},
          {"step", position.step},
          {"evaluated", position.evaluated},
          {"data", {{"epoch", position.data.epoch}, {"at", position.data.at}}},
          {"coverage",
           {{"covered", position.coverage.covered}, {"moved", position.coverage.moved}, {"done", position.coverage.done}}},
          {"said_no_gradient", position.said_no_gradient},
          {"best", {{"step", position.best_step}, {"accuracy", position.best_accuracy}}},
          {"machine", {{"kernels", machine.kernels}, {"quant_path", machine.quant_path}}},
          {"log", {{"metrics", log.metrics}, {"events", log.events}}}};
}

void from_json(const json& object, Checkpoint& checkpoint) {
  Position& position = checkpoint.position;
  object.at("step").get_to(position.step);
  object.at("evaluated").get_to(position.evaluated);
  object.at("data").at("epoch").get_to(position.data.epoch);
  object.at("data").at("at").get_to(position.data.at);
  object.at("coverage").at("covered").get_to(position.coverage.covered);
  object.at("coverage").at("moved").get_to(position.coverage.moved);
  object.at("coverage").at("done").get_to(position.coverage.done);
  object.at("said_no_gradient").get_to(position.said_no_gradient);
  object.at("best").at("step").get_to(position.best_step);
  object.at("best").at("accuracy").get_to(position.best_accuracy);
  object.at("machine").at("kernels").get_to(checkpoint.machine.kernels);
  object.at("machine").at("quant_path").get_to(checkpoint.machine.quant_path);
  object.at("log").at("metrics").get_to(checkpoint.log.metrics);
  object.at("log").at("events").get_to(checkpoint.log.events);
}

support::TensorView view_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat);
  return {"F32", tensor.sizes().vec(), static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

// exp_avg.NAME, exp_avg_sq.NAME and step.NAME of each parameter that has been moved.
void write_moments(const fs::path& file, const std::vector<NamedTensor>& parameters, const OptimizerState& state) {
  std::map<std::string, support::TensorView> views;
  std::vector<at::Tensor> held;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!state.exp_avg[i].defined()) continue;
    for (const auto& [prefix, moment] : {std::pair{"exp_avg.", &state.exp_avg[i]}, {"exp_avg_sq.", &state.exp_avg_sq[i]}}) {
      held.push_back(moment->to(at::kCPU));
      views[prefix + parameters[i].name] = view_of(held.back());
    }
    views["step." + parameters[i].name] = {"I64", {}, reinterpret_cast<const std::byte*>(&state.steps[i]), sizeof(std::int64_t)};
  }
  support::write_safetensors(file, views, {{"format", "pt"}});
}

void read_moments(const fs::path& file, const std::vector<NamedTensor>& parameters, OptimizerState& state) {
  const auto opened = support::SafetensorsFile::open(file);
  const auto& tensors = opened.tensors();
  for (const auto& parameter : parameters) {
    state.steps.push_back(0);
    state.exp_avg.emplace_back();
    state.exp_avg_sq.emplace_back();
    const auto step = tensors.find("step." + parameter.name);
    if (step == tensors.end()) continue;
    std::memcpy(&state.steps.back(), step->second.data, sizeof(std::int64_t));
    for (auto [prefix, moment] : {std::pair{"exp_avg.", &state.exp_avg.back()}, {"exp_avg_sq.", &state.exp_avg_sq.back()}}) {
      const support::TensorView& view = tensors.at(prefix + parameter.name);
      if (view.dtype != "F32" || view.shape != parameter.tensor.sizes().vec())
        throw std::runtime_error(file.string() + ": " + prefix + parameter.name + " has another shape or dtype than the adapter");
      *moment = at::empty(view.shape, at::kFloat);
      std::memcpy(moment->mutable_data_ptr(), view.data, view.bytes);
    }
  }
}

// What is wrong with the files of a checkpoint; empty: nothing.
std::string damage(const fs::path& folder) {
  try {
    std::istringstream lines(support::read_file(folder / kSums));
    std::map<std::string, std::string> sums;
    for (std::string line; std::getline(lines, line);)
      if (line.size() > 66) sums[line.substr(66)] = line.substr(0, 64);
    for (const char* file : kFiles)
      if (support::sha256_file(folder / file) != sums[file]) return std::string(file) + " does not have the checksum in " + kSums;
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

}  // namespace

CheckpointStore::CheckpointStore(const fs::path& run_folder, const spec::Config& config, std::string model_path,
                                 std::vector<NamedTensor> adapter)
    : folder_(run_folder / "checkpoints"),
      config_(config.checkpoint),
      lora_(config.lora),
      config_sha256_(spec::config_hash(config)),
      model_path_(std::move(model_path)),
      adapter_(std::move(adapter)) {}

fs::path CheckpointStore::folder_of(std::int64_t step) const {
  char name[32];
  std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
  return folder_ / name;
}

std::vector<std::int64_t> CheckpointStore::steps() const {
  std::vector<std::int64_t> steps;
  if (!fs::is_directory(folder_)) return steps;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("step-")) continue;
    std::int64_t step = -1;
    const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
    if (error == std::errc() && *end == '\0' && step >= 0) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void CheckpointStore::write(const Position& position, const OptimizerState& state, const Machine& machine,
                            const MetricsLog::End& log) {
  const fs::path partial = folder_ / kUnfinished, whole = folder_of(position.step);
  for (const char* left : {kUnfinished, kGoing}) fs::remove_all(folder_ / left);
  fs::create_directories(partial);
  std::vector<NamedTensor> adapter;
  for (std::size_t i = 0; i < adapter_.size(); ++i) adapter.push_back({adapter_[i].name, state.parameters[i]});
  write_adapter(partial, adapter, lora_, model_path_);
  write_moments(partial / "optimizer.safetensors", adapter_, state);
  support::write_file_atomically(partial / "checkpoint.json", to_json(position, machine, log, config_sha256_).dump(2) + "\n");
  std::string sums;
  for (const char* file : kFiles) sums += support::sha256_file(partial / file) + "  " + file + "\n";
  support::write_file_atomically(partial / kSums, sums);

  // One of the same step is there when a signal came between that step and its evaluation. Where a file system cannot
  // exchange two names (NFS), there is a moment without it.
  if (!fs::exists(whole)) {
    fs::rename(partial, whole);
  } else if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, whole.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL) throw std::runtime_error(whole.string() + ": " + std::strerror(errno));
    fs::rename(whole, folder_ / kGoing);
    fs::rename(partial, whole);
  }
  support::sync_folder(folder_);
  support::sync_folder(folder_.parent_path());
  for (const char* left : {kUnfinished, kGoing}) fs::remove_all(folder_ / left);
  prune(position.best_step);
}

// What is half removed must not look like a checkpoint.
void CheckpointStore::remove(const fs::path& folder) const {
  fs::rename(folder, folder_ / kGoing);
  fs::remove_all(folder_ / kGoing);
}

void CheckpointStore::prune(std::int64_t best_step) const {
  const auto all = steps();
  const auto last = static_cast<std::int64_t>(all.size()) - config_.keep_last;
  for (std::int64_t i = 0; i < last; ++i) {
    const auto step = all[static_cast<std::size_t>(i)];
    if (!(config_.keep_best && step == best_step)) remove(folder_of(step));
  }
}

std::optional<Checkpoint> CheckpointStore::newest() const {
  const auto all = steps();
  if (all.empty()) return std::nullopt;
  const fs::path folder = folder_of(all.back());
  if (const std::string wrong = damage(folder); !wrong.empty()) {
    std::string sentence = folder.string() + ": the checkpoint is damaged (" + wrong + "); ";
    for (auto step = all.rbegin() + 1; step != all.rend(); ++step)
      if (damage(folder_of(*step)).empty())
        throw BadInput(sentence + "remove that folder to go on from " + folder_of(*step).filename().string() + ", the one before it");
    throw BadInput(sentence + "there is none before it, so start a new run");
  }
  return read(all.back());
}

Checkpoint CheckpointStore::read(std::int64_t step) const {
  Checkpoint checkpoint;
  checkpoint.folder = folder_of(step);
  try {
    const json object = json::parse(support::read_file(checkpoint.folder / "checkpoint.json"));
    if (object.at("format") != kFormat)
      throw BadInput(checkpoint.folder.string() + ": it has format " + object.at("format").dump() + " and this assay-train reads " +
                     std::to_string(kFormat) + "; resume with the assay-train that wrote it");
    if (object.at("config_sha256") != config_sha256_)
      throw BadInput(checkpoint.folder.string() + ": it was written under another config.json than the run folder has now; put "
                                                  "the old one back, or start a new run");
    from_json(object, checkpoint);
    std::vector<NamedTensor> adapter;
    for (const auto& parameter : adapter_) {
      checkpoint.state.parameters.push_back(at::empty_like(parameter.tensor.detach()));
      adapter.push_back({parameter.name, checkpoint.state.parameters.back()});
    }
    read_adapter(checkpoint.folder, adapter);
    read_moments(checkpoint.folder / "optimizer.safetensors", adapter_, checkpoint.state);
    if (checkpoint.position.coverage.covered.size() != adapter_.size())
      throw std::runtime_error("checkpoint.json: it counts " + std::to_string(checkpoint.position.coverage.covered.size()) +
                               " adapter tensors, not " + std::to_string(adapter_.size()));
  } catch (const BadInput&) {
    throw;
  } catch (const std::exception& error) {
    throw BadInput(checkpoint.folder.string() + ": it is no checkpoint of this run (" + error.what() + "); start a new run");
  }
  return checkpoint;
}

}  // namespace assay::train

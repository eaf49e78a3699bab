#include "trainer/grpo/merge.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "support/files.h"
#include "support/model_folder.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/model/tensor_file.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;
using support::SafetensorsFile;
using support::TensorView;

[[noreturn]] void refuse(const fs::path& where, const std::string& what) { throw BadInput(where.string() + ": " + what); }

// A folder beside OUT that gets OUT's name when it is whole.
class FreshFolder {
 public:
  explicit FreshFolder(const fs::path& out) : out_(out), path_(out.string() + ".tmp." + std::to_string(::getpid())) {
    std::error_code none;
    if (fs::symlink_status(out, none).type() != fs::file_type::not_found)
      refuse(out, "exists already; give OUT another name, or remove it first");
    const fs::path parent = fs::absolute(out).lexically_normal().parent_path();
    if (!fs::is_directory(parent, none))
      refuse(parent, "there is no such folder to put OUT into; make it first: mkdir -p");
    fs::create_directory(path_);
  }
  ~FreshFolder() {
    std::error_code ignored;
    if (!done_) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void keep() {
    fs::rename(path_, out_);
    done_ = true;
    support::sync_folder(fs::absolute(out_).lexically_normal().parent_path());
  }

 private:
  fs::path out_, path_;
  bool done_ = false;
};

struct Pair {
  at::Tensor a, b;  // [r, in], [out, r]
  bool used = false;
};

// Pairs by the base's tensor names.
std::map<std::string, Pair> read_pairs(const fs::path& file, const SafetensorsFile& adapter, std::int64_t rank) {
  std::map<std::string, Pair> pairs;
  for (const auto& [name, view] : adapter.tensors()) {
    static const std::string prefix = "base_model.model.";
    const auto part = name.find(".lora_");
    const std::string tail = part == std::string::npos ? "" : name.substr(part);
    if (!name.starts_with(prefix) || (tail != ".lora_A.weight" && tail != ".lora_B.weight"))
      refuse(file, "tensor '" + name + "' is not one of LoRA's on a linear layer; only lora_A and lora_B weights can be merged");
    Pair& pair = pairs[name.substr(prefix.size(), part - prefix.size()) + ".weight"];
    const at::Tensor values = read_tensor(view, file.string(), name).to(at::kDouble);
    if (values.dim() != 2 || values.size(tail == ".lora_A.weight" ? 0 : 1) != rank)
      refuse(file, "tensor '" + name + "' does not have the rank " + std::to_string(rank) + " that adapter_config.json says");
    (tail == ".lora_A.weight" ? pair.a : pair.b) = values;
  }
  for (const auto& [name, pair] : pairs)
    if (!pair.a.defined() || !pair.b.defined())
      refuse(file, "has only one of lora_A and lora_B for " + name + "; the file is damaged: copy it again");
  if (pairs.empty()) refuse(file, "holds no tensor");
  return pairs;
}

at::ScalarType type_of(const std::string& dtype) {
  return dtype == "bf16" ? at::kBFloat16 : dtype == "fp16" ? at::kHalf : at::kFloat;
}
const char* safetensors_name(const std::string& dtype) { return dtype == "bf16" ? "BF16" : dtype == "fp16" ? "F16" : "F32"; }
const char* torch_name(const std::string& dtype) {
  return dtype == "bf16" ? "bfloat16" : dtype == "fp16" ? "float16" : "float32";
}

class Merge {
 public:
  explicit Merge(const MergeOptions& options)
      : options_(options), file_(options.adapter / "adapter_model.safetensors"),
        model_(support::ModelFolder::open(options.base)) {
    const spec::LoraConfig lora = read_lora_config(options.adapter);
    scale_ = lora.alpha / static_cast<double>(lora.rank);
    pairs_ = read_pairs(file_, SafetensorsFile::open(file_), lora.rank);
    for (const auto& [name, pair] : pairs_) {
      const TensorView* base = model_.find(name);
      if (!base)
        refuse(options.base, "has no tensor '" + name + "', which the adapter " + options.adapter.string() +
                                 " changes; give the base that it was trained on");
      const std::vector<std::int64_t> shape{pair.b.size(0), pair.a.size(1)};
      if (base->shape != shape)
        refuse(options.base, "'" + name + "' has another shape than the adapter " + options.adapter.string() +
                                 " has for it; give the base that it was trained on");
    }
  }

  MergeReport write(const fs::path& folder) {
    std::uint64_t total = 0;
    std::map<std::string, std::string> shard_of;
    for (const auto& shard : model_.shards()) {
      write_shard(shard, folder / shard.name);
      for (const auto& [name, view] : shard.file.tensors()) shard_of[name] = shard.name;
    }
    for (const auto& [name, shard] : shard_of) total += bytes_of(*model_.find(name));
    copy_others(folder, shard_of, total);
    return {static_cast<std::int64_t>(shard_of.size()), static_cast<std::int64_t>(pairs_.size()), total};
  }

 private:
  std::uint64_t bytes_of(const TensorView& view) const {
    std::uint64_t count = 1;
    for (const std::int64_t n : view.shape) count *= static_cast<std::uint64_t>(n);
    return count * at::elementSize(type_of(options_.dtype));
  }

  void write_shard(const support::ModelFolder::Shard& shard, const fs::path& to) {
    std::map<std::string, support::TensorEntry> entries;
    for (const auto& [name, view] : shard.file.tensors())
      entries[name] = {safetensors_name(options_.dtype), view.shape};
    support::SafetensorsWriter writer(to, entries, {{"format", "pt"}});
    for (const auto& [name, view] : shard.file.tensors()) {
      at::Tensor values = read_tensor(view, options_.base.string(), name);
      if (const auto found = pairs_.find(name); found != pairs_.end())
        values = values.to(at::kDouble).add_(at::matmul(found->second.b, found->second.a), scale_);
      values = values.to(type_of(options_.dtype)).contiguous();
      if (!at::isfinite(values).all().item<bool>())
        refuse(options_.base, "'" + name + "' holds values that " + options_.dtype + " cannot; give another --dtype");
      writer.write(name, 0, values.const_data_ptr(), values.nbytes());
    }
    writer.finish();
  }

  void copy_others(const fs::path& folder, const std::map<std::string, std::string>& shard_of, std::uint64_t total) {
    std::set<std::string> weights{support::kIndexName};
    for (const auto& shard : model_.shards()) weights.insert(shard.name);
    for (const auto& entry : fs::directory_iterator(options_.base)) {
      const std::string name = entry.path().filename();
      // What the base was saved as elsewhere (PyTorch's own files) would still hold the weights without the adapter.
      const bool old_weights = name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".gguf") ||
                               name.ends_with(".safetensors") || name.ends_with(".bin.index.json");
      if (!entry.is_regular_file() || weights.contains(name) || old_weights || name.starts_with('.')) continue;
      std::string text = support::read_file(entry.path());
      if (name == "config.json") {
        auto config = nlohmann::ordered_json::parse(text);
        config[config.contains("dtype") ? "dtype" : "torch_dtype"] = torch_name(options_.dtype);
        text = config.dump(2) + "\n";
      }
      support::write_file_atomically(folder / name, text);
    }
    if (!model_.has_index()) return;
    const nlohmann::json index{{"metadata", {{"total_size", total}}}, {"weight_map", shard_of}};
    support::write_file_atomically(folder / support::kIndexName, index.dump(2) + "\n");
  }

  const MergeOptions& options_;
  fs::path file_;
  support::ModelFolder model_;
  double scale_ = 1;
  std::map<std::string, Pair> pairs_;
};

// What is thrown about the files that were given.
template <class F>
auto refusing(F&& work) {
  try {
    return work();
  } catch (const BadInput&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw BadInput(error.what());
  }
}

}  // namespace

MergeReport write_merged(const MergeOptions& options) {
  const at::NoGradGuard no_grad;
  Merge merge = refusing([&] { return Merge(options); });
  FreshFolder fresh(options.out);
  const MergeReport report = refusing([&] { return merge.write(fresh.path()); });
  fresh.keep();
  return report;
}

MergeReport write_peft(const MergeOptions& options) {
  const auto file = options.adapter / "adapter_model.safetensors", config_file = options.adapter / "adapter_config.json";
  const auto tensors = refusing([&] {
    read_lora_config(options.adapter);
    return SafetensorsFile::open(file).tensors().size();
  });
  FreshFolder fresh(options.out);
  auto config = nlohmann::ordered_json::parse(support::read_file(config_file));
  config["base_model_name_or_path"] = fs::absolute(options.base).lexically_normal().string();
  const std::string bytes = support::read_file(file);
  support::write_file_atomically(fresh.path() / "adapter_model.safetensors", bytes);
  support::write_file_atomically(fresh.path() / "adapter_config.json", config.dump(2) + "\n");
  fresh.keep();
  return {static_cast<std::int64_t>(tensors), 0, bytes.size()};
}

}  // namespace assay::train

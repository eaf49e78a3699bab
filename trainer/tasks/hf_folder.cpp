#include "trainer/tasks/hf_folder.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "support/files.h"
#include "support/safetensors.h"

namespace assay::train::tasks {
namespace {

namespace fs = std::filesystem;

std::string config_json(const ModelShape& shape) {
  const nlohmann::ordered_json json = {
      {"architectures", {"Qwen2ForCausalLM"}},
      {"model_type", "qwen2"},
      {"hidden_size", shape.hidden},
      {"num_hidden_layers", shape.layers},
      {"num_attention_heads", shape.heads},
      {"num_key_value_heads", shape.kv_heads},
      {"intermediate_size", shape.intermediate},
      {"hidden_act", "silu"},
      {"vocab_size", shape.vocabulary},
      {"max_position_embeddings", shape.max_positions},
      {"rope_theta", shape.rope_theta},
      {"rms_norm_eps", shape.rms_eps},
      {"tie_word_embeddings", shape.tied},
      {"attention_dropout", 0.0},
      {"use_sliding_window", false},
      {"initializer_range", 0.02},
      {"eos_token_id", shape.eos_ids.front()},
      {"pad_token_id", shape.eos_ids.front()},
      {"torch_dtype", "float32"},
      {"use_cache", true},
  };
  return json.dump(2) + "\n";
}

std::string generation_json(const ModelShape& shape) {
  const nlohmann::ordered_json json = {
      {"do_sample", false}, {"eos_token_id", shape.eos_ids.front()}, {"pad_token_id", shape.eos_ids.front()}};
  return json.dump(2) + "\n";
}

void write_weights(const fs::path& file, const Decoder& decoder) {
  std::vector<at::Tensor> alive;
  std::map<std::string, support::TensorView> views;
  for (const NamedTensor& weight : decoder.base_weights()) {
    alive.push_back(weight.tensor.detach().to(at::kFloat).contiguous());
    const at::Tensor& tensor = alive.back();
    views[weight.name] = {"F32", tensor.sizes().vec(), static_cast<const std::byte*>(tensor.const_data_ptr()),
                          tensor.nbytes()};
  }
  support::write_safetensors(file, views, {{"format", "pt"}});
}

[[noreturn]] void fail(const fs::path& path) { throw std::runtime_error(path.string() + ": " + std::strerror(errno)); }

// `fresh` takes the name `out`; what was there is gone afterwards.
void put_in_place(const fs::path& fresh, const fs::path& out) {
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, out.c_str(), RENAME_NOREPLACE) == 0) return;
  if (errno != EEXIST) fail(out);
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, out.c_str(), RENAME_EXCHANGE) != 0) fail(out);
  fs::remove_all(fresh);
}

}  // namespace

void write_hf_folder(const fs::path& out, const ModelShape& shape, const Decoder& decoder, const fs::path& tokenizer,
                     const std::string& card) {
  const fs::path fresh = out.string() + ".tmp." + std::to_string(::getpid());
  fs::remove_all(fresh);
  fs::create_directories(fresh);
  try {
    if (fs::exists(out)) fs::copy(out, fresh, fs::copy_options::recursive);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
      support::write_file_atomically(fresh / name, support::read_file(tokenizer / name));
    support::write_file_atomically(fresh / "config.json", config_json(shape));
    support::write_file_atomically(fresh / "generation_config.json", generation_json(shape));
    support::write_file_atomically(fresh / "README.md", card);
    write_weights(fresh / "model.safetensors", decoder);
    put_in_place(fresh, out);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(fresh, ignored);
    throw;
  }
}

}  // namespace assay::train::tasks

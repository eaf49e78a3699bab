// The merged folder computes what base and adapter do; what cannot be merged is refused and leaves nothing behind.
#include "trainer/grpo/merge.h"

#include "support/model_folder.h"
#include "tests/trainer/grpo/tiny_run.h"
#include "trainer/grpo/adapter_io.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/model/tensor_file.h"

using namespace assay;
using namespace assay::test;
using namespace assay::train;

namespace {

const std::vector<std::vector<std::int32_t>> sequences = {{1, 5, 9, 3, 40, 2, 7}, {30, 8}};

at::Tensor last_hidden(Decoder& decoder) {
  const at::NoGradGuard no_grad;
  return decoder.prefill(rows_of(sequences)).last;
}

// A folder with model/ and adapter/, and what the two give together.
struct Trained {
  fs::path folder;
  at::Tensor wanted;
};

Trained trained(const std::string& name) {
  Trained made{fresh_folder("merge-" + name), {}};
  write_tiny_model(made.folder / "model");
  write_text(made.folder / "model/generation_config.json", "{\"eos_token_id\": 0}");
  write_text(made.folder / "model/pytorch_model.bin", "old");
  spec::LoraConfig lora;
  lora.rank = 4;
  lora.alpha = 10;
  lora.targets = {"q_proj", "v_proj", "down_proj"};
  Decoder decoder = Decoder::load(made.folder / "model");
  decoder.attach_lora(lora, 1);
  const at::NoGradGuard no_grad;
  for (const auto& tensor : decoder.adapter())
    if (tensor.name.ends_with("lora_B.weight")) at::Tensor(tensor.tensor).normal_(0, 0.2);
  write_adapter(made.folder / "adapter", decoder.adapter(), lora, "model");
  made.wanted = last_hidden(decoder);
  return made;
}

MergeOptions options_of(const Trained& made) { return {made.folder / "adapter", made.folder / "model", made.folder / "out"}; }

// Cuts model.safetensors into two shards of `type` with an index.
void shard(const fs::path& folder, at::ScalarType type) {
  std::map<std::string, at::Tensor> parts[2];
  {
    const auto file = support::SafetensorsFile::open(folder / "model.safetensors");
    int n = 0;
    for (const auto& [name, view] : file.tensors()) parts[n++ % 2][name] = read_tensor(view, "", name).to(type);
  }
  fs::remove(folder / "model.safetensors");
  json map;
  for (int i = 0; i < 2; ++i) {
    const std::string shard = "model-0000" + std::to_string(i + 1) + "-of-00002.safetensors";
    std::map<std::string, support::TensorView> views;
    for (const auto& [name, t] : parts[i]) {
      views[name] = {type == at::kFloat ? "F32" : "BF16", t.sizes().vec(), static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()};
      map[name] = shard;
    }
    support::write_safetensors(folder / shard, views);
  }
  write_text(folder / support::kIndexName, json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
}

}  // namespace

TEST_CASE("a merged folder computes what the base and the adapter do") {
  const Trained made = trained("plain");
  const MergeReport report = write_merged(options_of(made));
  CHECK(report.merged == 6);
  CHECK(report.tensors == 26);
  Decoder merged = Decoder::load(made.folder / "out"), base = Decoder::load(made.folder / "model");
  CHECK((last_hidden(merged) - made.wanted).abs().max().item<double>() < 2e-5);
  CHECK((last_hidden(base) - made.wanted).abs().max().item<double>() > 1e-2);
  for (const char* name : {"tokenizer.json", "generation_config.json", "config.json"}) CHECK(fs::exists(made.folder / "out" / name));
  CHECK_FALSE(fs::exists(made.folder / "out/pytorch_model.bin"));  // the weights without the adapter
  CHECK(json::parse(read_text(made.folder / "out/config.json"))["torch_dtype"] == "float32");
}

TEST_CASE("shards of bf16 stay shards, and the sum is rounded once, to the dtype asked for") {
  Trained made = trained("shards");
  shard(made.folder / "model", at::kBFloat16);
  Decoder decoder = Decoder::load(made.folder / "model");
  decoder.attach_lora(read_lora_config(made.folder / "adapter"), 0);
  read_adapter(made.folder / "adapter", decoder.adapter());
  auto options = options_of(made);
  const auto report = write_merged(options);
  const auto out = support::ModelFolder::open(options.out);
  CHECK(out.shards().size() == 2);
  CHECK(json::parse(read_text(options.out / support::kIndexName))["metadata"]["total_size"] == report.bytes);
  Decoder merged = Decoder::load(options.out);
  CHECK((last_hidden(merged) - last_hidden(decoder)).abs().max().item<double>() < 2e-5);

  options.out = made.folder / "half";
  options.dtype = "bf16";
  write_merged(options);
  const auto half = support::ModelFolder::open(options.out);
  for (const std::string& name : out.names())
    CHECK(read_tensor(*half.find(name), "", name).equal(read_tensor(*out.find(name), "", name).to(at::kBFloat16)));
  CHECK(json::parse(read_text(options.out / "config.json"))["torch_dtype"] == "bfloat16");
}

TEST_CASE("what cannot be merged is refused in one sentence, and nothing is left behind") {
  const Trained made = trained("refused");
  const auto left = [&] {
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator(made.folder)) count += entry.path().filename().string().starts_with("out");
    return count;
  };
  auto options = options_of(made);
  const auto config = made.folder / "adapter/adapter_config.json";
  const auto good = json::parse(read_text(config));
  const auto with = [&](const char* key, const json& value) {
    json changed = good;
    changed[key] = value;
    write_text(config, changed.dump());
  };
  with("use_dora", true);
  CHECK_THROWS_WITH(write_merged(options), Catch::Contains("adapter_config.json") && Catch::Contains("use_dora is not supported"));
  with("alpha_pattern", {{"q_proj", 3}});
  CHECK_THROWS_WITH(write_merged(options), Catch::Contains("alpha_pattern is not supported"));
  with("target_modules", "all-linear");
  CHECK_THROWS_WITH(write_merged(options), Catch::Contains("target_modules must be a list"));
  with("r", 5);
  CHECK_THROWS_WITH(write_merged(options), Catch::Contains("does not have the rank 5"));
  write_text(config, good.dump());

  write_tiny_model(made.folder / "model", [](const std::string& name, at::Tensor t) {
    if (name.ends_with("0.self_attn.q_proj.weight")) t.fill_(3e38);
  });
  options.dtype = "fp16";
  CHECK_THROWS_WITH(write_merged(options), Catch::Contains("'model.layers.0.self_attn.q_proj.weight' holds values that fp16 cannot"));
  CHECK(left() == 0);
  options.dtype = "fp32";
  CHECK_THROWS_AS(write_merged({made.folder / "adapter", made.folder / "nowhere", options.out}), BadInput);
  CHECK(left() == 0);
  fs::create_directories(options.out);
  CHECK_THROWS_WITH(write_merged(options), Catch::Contains("exists already"));
  CHECK_THROWS_WITH(write_peft(options), Catch::Contains("exists already"));
}

TEST_CASE("an adapter of another model is refused by the first tensor that has no counterpart") {
  const Trained made = trained("other");
  auto shape = tiny_shape();
  shape.layers = 3;
  Decoder decoder = Decoder::fresh(shape, 1);
  spec::LoraConfig lora;
  lora.rank = 2;
  decoder.attach_lora(lora, 1);
  write_adapter(made.folder / "adapter", decoder.adapter(), lora, "model");
  CHECK_THROWS_WITH(write_merged(options_of(made)), Catch::Contains("has no tensor 'model.layers.2."));
  shape.layers = 2;
  shape.hidden = 64;
  shape.head_size = 32;
  Decoder wide = Decoder::fresh(shape, 1);
  wide.attach_lora(lora, 1);
  write_adapter(made.folder / "adapter", wide.adapter(), lora, "model");
  CHECK_THROWS_WITH(write_merged(options_of(made)), Catch::Contains("has another shape"));
}

TEST_CASE("the PEFT folder names its base by an absolute path") {
  const Trained made = trained("peft");
  const auto report = write_peft(options_of(made));
  CHECK(report.tensors == 12);
  CHECK(read_text(made.folder / "out/adapter_model.safetensors") == read_text(made.folder / "adapter/adapter_model.safetensors"));
  const auto config = json::parse(read_text(made.folder / "out/adapter_config.json"));
  CHECK(config["base_model_name_or_path"] == fs::absolute(made.folder / "model").lexically_normal().string());
  CHECK(config["r"] == 4);
}

// Packed models on disk: what is written, that it reads back as it was, and what is refused.
#include <cfloat>
#include <cstring>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "data.h"
#include "quant/checkpoint/packed_model.h"
#include "quant/checkpoint/quantize_model.h"
#include "support/files.h"

using namespace assay;
using namespace assay::quant;
using namespace assay::quant::test;
namespace fs = std::filesystem;

namespace {

support::TensorView view_of(const std::vector<float>& values, std::vector<std::int64_t> shape) {
  return {"F32", std::move(shape), reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)};
}

template <class T>
support::TensorView bytes_of(const std::string& dtype, const std::vector<T>& values, std::vector<std::int64_t> shape) {
  return {dtype, std::move(shape), reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::vector<T> values_of(const support::TensorView& view) {
  std::vector<T> values(view.bytes / sizeof(T));
  if (view.bytes > 0) std::memcpy(values.data(), view.data, view.bytes);
  return values;
}

std::string refusal(const auto& call) {
  try {
    call();
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

void quantize(const fs::path& in, const fs::path& out, const Spec& spec, int axis, bool pack) {
  fs::remove_all(out);
  QuantizeModel(in, out, {spec, axis, pack, {}, {}}).run();
}

std::vector<float> dequantized(const PackedWeight& weight) {
  std::vector<float> out(static_cast<std::size_t>(weight.packed.rows * weight.packed.cols));
  dequantize(weight, out.data());
  return out;
}

}  // namespace

TEST_CASE("a packed file reads back as what fake quantization gives: every mode, axis and shape, NaN among the values") {
  const auto folder = assay::test::fresh_folder("checkpoint-round-trip");
  std::uint32_t seed = 0;
  for (const Named& named : all_specs()) {
    for (int axis : {1, 0}) {
      if (!takes_axis(named.spec, axis)) continue;
      for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{{33, 64}, {7, 45}, {1, 1}, {0, 32}, {40, 0}}) {
        for (int kind = 0; kind < 2; ++kind) {
          ++seed;
          const auto x = kind == 0 ? nasty(rows * cols, seed) : any_bits(rows * cols, seed, true);
          const std::vector<float> bias = {1, 2, 3};
          support::write_safetensors(folder / "in", {{"m.fc.weight", view_of(x, {rows, cols})}, {"m.fc.bias", view_of(bias, {3})}},
                                     {{"format", "pt"}});
          quantize(folder / "in", folder / "out", named.spec, axis, true);
          CAPTURE(named.name, axis, rows, cols, kind);

          const auto file = support::SafetensorsFile::open(folder / "out");
          CHECK(file.metadata().at("format") == "pt");
          CHECK(values_of<float>(file.tensors().at("m.fc.bias")) == bias);
          const bool theirs = axis == 1 && cols % named.spec.block() == 0 && named.spec.scope == Scope::tensor;
          CHECK(file.tensors().contains("m.fc.weight_global_scale") == (theirs && named.spec.format == Format::nvfp4));
          CHECK(file.tensors().contains("m.fc.weight_tensor_max") == (!theirs && has_tensor_scale(named.spec.mode)));
          CHECK(file.tensors().at("m.fc.weight_packed").shape == std::vector<std::int64_t>{rows, (cols + 1) / 2});

          const auto model = PackedModel::open(folder / "out");
          REQUIRE(model.modules() == std::vector<std::string>{"m.fc"});
          CHECK(model.others().size() == 1);
          const PackedWeight weight = model.load("m.fc");
          CHECK(weight.mode_known);
          CHECK(weight.packed.spec == named.spec);
          CHECK(weight.packed.axis == axis);
          CHECK(same_bits(dequantized(weight), run(named.spec, x, rows, cols, axis)));
        }
      }
    }
  }
}

TEST_CASE("golden bytes of compressed-tensors' layouts") {
  const auto folder = assay::test::fresh_folder("checkpoint-golden");
  // Scales by hand: 6 is the maximum, so the tensor scale makes 448 of the first block's, and the second block's is half.
  std::vector<float> x = {0, -0.0f, .5f, -.5f, 1, -1, 1.5f, -1.5f, 2, -2, 3, -3, 4, -4, 6, -6};
  for (int i = 0; i < 16; ++i) x.push_back(x[static_cast<std::size_t>(i)] / 2);
  support::write_safetensors(folder / "in", {{"a.weight", view_of(x, {1, 32})}});
  const std::vector<std::uint8_t> half = {0x80, 0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7};
  std::vector<std::uint8_t> codes = half;
  codes.insert(codes.end(), half.begin(), half.end());

  quantize(folder / "in", folder / "te", {}, 1, true);
  const auto te = support::SafetensorsFile::open(folder / "te");
  CHECK(te.tensors().at("a.weight_packed").dtype == "U8");
  CHECK(values_of<std::uint8_t>(te.tensors().at("a.weight_packed")) == codes);
  CHECK(te.tensors().at("a.weight_scale").dtype == "F8_E4M3");
  CHECK(te.tensors().at("a.weight_scale").shape == std::vector<std::int64_t>{1, 2});
  CHECK(values_of<std::uint8_t>(te.tensors().at("a.weight_scale")) == std::vector<std::uint8_t>{0x7e, 0x76});
  CHECK(te.tensors().at("a.weight_global_scale").shape == std::vector<std::int64_t>{1});
  CHECK(values_of<float>(te.tensors().at("a.weight_global_scale")) == std::vector<float>{448});
  CHECK(te.tensors().size() == 3);
  CHECK(te.metadata().at(kMetadataKey) ==
        R"({"axis":1,"format":"nvfp4","layout":"compressed-tensors","mode":"te","non_finite":"propagate",)"
        R"("rounding":"nearest_even","scope":"tensor","tensor_max":{"a":"6.00000000e+00"},"version":1})");

  quantize(folder / "in", folder / "one", {Format::nvfp4, Mode::torchao_one_level}, 1, true);
  const auto one = support::SafetensorsFile::open(folder / "one");
  CHECK(values_of<std::uint8_t>(one.tensors().at("a.weight_scale")) == std::vector<std::uint8_t>{0x38, 0x30});
  CHECK(values_of<float>(one.tensors().at("a.weight_global_scale")) == std::vector<float>{1});

  // One block of 32: the second half is half as large, and .25 rounds to even, which is 0.
  quantize(folder / "in", folder / "mx", {Format::mxfp4, Mode::floor}, 1, true);
  const auto mx = support::SafetensorsFile::open(folder / "mx");
  CHECK(mx.tensors().size() == 2);
  CHECK(mx.tensors().at("a.weight_scale").dtype == "U8");
  CHECK(values_of<std::uint8_t>(mx.tensors().at("a.weight_scale")) == std::vector<std::uint8_t>{0x7f});
  CHECK(values_of<std::uint8_t>(mx.tensors().at("a.weight_packed"))[9] == 0x80);
}

TEST_CASE("what a checkpoint says by itself: code * (scale / global scale), without our metadata") {
  const auto folder = assay::test::fresh_folder("checkpoint-foreign");
  const std::vector<std::uint8_t> codes = {0x21, 0x43, 0x65, 0x87, 0xa9, 0xcb, 0xed, 0x0f}, scales = {0x7e, 0x01};
  std::vector<std::uint8_t> two = codes;
  two.insert(two.end(), codes.begin(), codes.end());
  const std::vector<float> global = {1234.5f};
  support::write_safetensors(folder / "f", {{"a.weight_packed", bytes_of("U8", two, {1, 16})},
                                            {"a.weight_scale", bytes_of("F8_E4M3", scales, {1, 2})},
                                            {"a.weight_global_scale", bytes_of("F32", global, {1})},
                                            {"a.input_global_scale", bytes_of("F32", global, {1})}});
  const auto model = PackedModel::open(folder / "f");
  const PackedWeight weight = model.load("a");
  CHECK_FALSE(weight.mode_known);
  CHECK(model.others().contains("a.input_global_scale"));
  const auto out = dequantized(weight);
  for (int i = 0; i < 32; ++i) {
    const int code = i % 16 == 15 ? 0 : i % 16 + 1;
    const float wanted = decode_e2m1(static_cast<std::uint8_t>(code)) * (decode_e4m3(scales[std::size_t(i / 16)]) / 1234.5f);
    CHECK(out[std::size_t(i)] == wanted);
  }
}

TEST_CASE("fake quantization keeps names, shapes, dtypes and everything else") {
  const auto folder = assay::test::fresh_folder("checkpoint-fake");
  const auto x = nasty(24 * 40, 5);
  std::vector<std::uint16_t> bf16, f16 = {0x0001, 0x3c00, 0xfbff, 0x8000, 0x4248, 0x7bff, 0x0400, 0xc900};
  for (float v : x) bf16.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16));
  const std::vector<std::int64_t> position = {7, 8};
  const std::map<std::string, support::TensorView> tensors = {
      {"a.weight", view_of(x, {24, 40})},
      {"b.weight", bytes_of("BF16", bf16, {24, 40})},
      {"c.weight", bytes_of("F16", f16, {2, 4})},
      {"model.embed_tokens.weight", view_of(x, {24, 40})},
      {"norm.weight", view_of(x, {24 * 40})},
      {"a.bias", view_of(x, {24, 40})},
      {"ids", bytes_of("I64", position, {2})}};
  support::write_safetensors(folder / "in", tensors, {{"format", "pt"}});
  const Spec spec{Format::mxfp4, Mode::floor};
  quantize(folder / "in", folder / "out", spec, 1, false);
  const auto file = support::SafetensorsFile::open(folder / "out");
  REQUIRE(file.tensors().size() == tensors.size());
  for (const auto& [name, view] : tensors) {
    const auto& got = file.tensors().at(name);
    CAPTURE(name);
    CHECK(got.dtype == view.dtype);
    CHECK(got.shape == view.shape);
    const bool kept = name == "model.embed_tokens.weight" || name == "norm.weight" || name == "a.bias" || name == "ids";
    CHECK((std::memcmp(got.data, view.data, view.bytes) == 0) == kept);
  }
  CHECK(same_bits(values_of<float>(file.tensors().at("a.weight")), run(spec, x, 24, 40)));
  // bf16: MXFP4's values are bf16 numbers already.
  std::vector<float> wide;
  for (std::uint16_t h : bf16) wide.push_back(std::bit_cast<float>(std::uint32_t(h) << 16));
  const auto wanted = run(spec, wide, 24, 40);
  const auto got = values_of<std::uint16_t>(file.tensors().at("b.weight"));
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(std::bit_cast<std::uint32_t>(wanted[i]) == std::uint32_t(got[i]) << 16);
  // fp16, by hand. Row 1: am = 65504, scale 2^13: 65504 / 2^13 saturates to 6, 2^-24 goes to 0, 1.0 too, -65504 to -6.
  CHECK(values_of<std::uint16_t>(file.tensors().at("c.weight")) ==
        std::vector<std::uint16_t>{0x0000, 0x0000, 0xfa00, 0x8000, 0x0000, 0x7a00, 0x0000, 0x8000});
}

TEST_CASE("which tensors are weights of linear layers") {
  for (const char* name : {"model.layers.0.mlp.up_proj.weight", "h.0.attn.c_attn.weight", "fc.weight"})
    CHECK(quantized_by_default(name, {4, 4}));
  for (const char* name : {"lm_head.weight", "model.embed_tokens.weight", "transformer.wte.weight", "fc.bias", "weight",
                           "fc.weight_scale"})
    CHECK_FALSE(quantized_by_default(name, {4, 4}));
  CHECK_FALSE(quantized_by_default("fc.weight", {4}));
  CHECK_FALSE(quantized_by_default("conv.weight", {4, 4, 3}));
}

TEST_CASE("metadata: any maximum comes back, in as many characters as any other") {
  Choices choices;
  choices.tensor_max = {{"a", 0.0f}};
  const std::size_t length = metadata_value(choices).size();
  std::vector<float> maxima = any_bits(2000, 9);
  for (float special : {0.0f, FLT_MAX, FLT_MIN, 1e-45f, 1.0f}) maxima.push_back(special);
  for (float maximum : maxima) {
    choices.tensor_max["a"] = std::fabs(maximum);
    const std::string value = metadata_value(choices);
    CHECK(value.size() == length);
    CHECK(parse_metadata_value(value).tensor_max.at("a") == std::fabs(maximum));
  }
  for (const auto& [part, other, word] : std::vector<std::array<std::string, 3>>{
           {"\"te\"", "\"floor\"", "mode"},
           {"\"nvfp4\"", "\"fp4\"", "format"},
           {"nearest_even", "up", "rounding"},
           {"propagate", "stop", "non_finite"},
           {"\"tensor\"", "\"column\"", "scope"},
           {"compressed-tensors", "mine", "layout"},
           {"\"version\":1", "\"version\":2", "another version"},
           {"\"axis\":1", "\"axis\":2", "axis"},
           {"\"axis\":1", "\"axis\":\"1\"", "axis"},
           {"\"mode\":\"te\",", "", "mode"},
           {"\"tensor_max\":{", "\"tensor_max\":{\"b\":\"x\",", "tensor_max of 'b'"},
           {"\"tensor_max\":{", "\"tensor_max\":{\"b\":\"-1\",", "tensor_max of 'b'"},
           {"\"tensor_max\":{", "\"tensor_max\":{\"b\":\"inf\",", "tensor_max of 'b'"},
           {"\"tensor_max\":{", "\"odd_cols\":3,\"tensor_max\":{", "odd_cols"},
           {"{\"axis\"", "{{\"axis\"", ""}}) {
    std::string value = metadata_value(choices);
    const std::size_t at = value.find(part);
    REQUIRE(at != std::string::npos);
    value.replace(at, part.size(), other);
    const std::string message = refusal([&] { parse_metadata_value(value); });
    INFO(value << "\n" << message);
    CHECK_FALSE(message.empty());
    CHECK(message.find(word) != std::string::npos);
  }
}

TEST_CASE("packed models whose parts do not fit together are refused, with the file's name and what is wrong") {
  const auto folder = assay::test::fresh_folder("checkpoint-refused");
  const std::vector<std::uint8_t> codes(4 * 16), scales(8);
  const std::vector<float> one = {1};
  using Tensors = std::map<std::string, support::TensorView>;
  const Tensors good = {{"a.weight_packed", bytes_of("U8", codes, {4, 16})},
                        {"a.weight_scale", bytes_of("F8_E4M3", scales, {4, 2})},
                        {"a.weight_global_scale", bytes_of("F32", one, {1})}};
  const auto message = [&](const std::function<void(Tensors&)>& change, const std::string& metadata = "") {
    Tensors tensors = good;
    change(tensors);
    std::map<std::string, std::string> said;
    if (!metadata.empty()) said[kMetadataKey] = metadata;
    support::write_safetensors(folder / "f", tensors, said);
    return refusal([&] { PackedModel::open(folder / "f").load("a"); });
  };
  const auto has = [&](const std::string& text, const std::string& word) {
    INFO(text);
    CHECK(text.rfind((folder / "f").string() + ": ", 0) == 0);
    CHECK(text.find(word) != std::string::npos);
    CHECK(text.find("; ") != std::string::npos);
  };
  CHECK(message([](Tensors&) {}).empty());
  has(message([](Tensors& t) { t.erase("a.weight_packed"); }), "no packed weights");
  has(message([](Tensors& t) { t.erase("a.weight_scale"); }), "has no 'a.weight_scale'");
  has(message([](Tensors& t) { t.erase("a.weight_global_scale"); }), "has no 'a.weight_global_scale'");
  has(message([&](Tensors& t) { t["a.weight_scale"].shape = {8, 1}; }), "of shape [8, 1] where [4, 2]");
  has(message([&](Tensors& t) { t["a.weight_scale"].shape = {8}; }), "of shape [8]");
  has(message([&](Tensors& t) { t["a.weight_scale"].dtype = "I8"; }), "as I8");
  has(message([&](Tensors& t) { t["a.weight_scale"].dtype = "U8"; }), "of shape [4, 2] where [4, 1]");
  has(message([&](Tensors& t) { t["a.weight_packed"].dtype = "I8"; }), "as I8 [4, 16]");
  has(message([&](Tensors& t) { t["a.weight_packed"].shape = {64}; }), "as U8 [64]");
  has(message([&](Tensors& t) { t["a.weight_global_scale"].dtype = "U32"; }), "as U32 [1]");
  has(message([&](Tensors& t) { t["a.weight_zero_point"] = bytes_of("U8", scales, {8}); }), "asymmetric");
  has(message([](Tensors&) {}, "{}"), "metadata");
  Choices choices;
  has(message([](Tensors&) {}, metadata_value(choices)), "without a tensor_max of 'a'");
  choices.tensor_max = {{"a", 1.0f}};
  CHECK(message([](Tensors&) {}, metadata_value(choices)).empty());
  choices.spec = {Format::mxfp4, Mode::floor};
  has(message([](Tensors&) {}, metadata_value(choices)), "not the format");
  choices = {{}, 0, Layout::assay, {}, {}};
  has(message([](Tensors&) {}, metadata_value(choices)), "where [1, 32]");
  choices.axis = 1;
  has(message([](Tensors&) {}, metadata_value(choices)), "has no 'a.weight_tensor_max'");

  // A folder says its format in config.json too.
  support::write_safetensors(folder / "model.safetensors", good);
  const auto open = [&] { return refusal([&] { PackedModel::open(folder); }); };
  CHECK(open().find("config.json: cannot be read") != std::string::npos);
  support::write_file_atomically(folder / "config.json", "{}");
  CHECK(open().find("has no quantization_config") != std::string::npos);
  support::write_file_atomically(folder / "config.json", R"({"quantization_config": {"format": "pack-quantized"}})");
  CHECK(open().find("in another way") != std::string::npos);
  support::write_file_atomically(folder / "config.json", R"({"quantization_config": {"format": "mxfp4-pack-quantized"}})");
  CHECK(open().find("not the format") != std::string::npos);
  support::write_file_atomically(folder / "config.json", R"({"quantization_config": {"format": "nvfp4-pack-quantized"}})");
  CHECK(open().empty());
}

TEST_CASE("damaged packed files end in an error or a read, never a crash") {
  const auto folder = assay::test::fresh_folder("checkpoint-fuzz");
  const auto x = nasty(5 * 33, 8);
  support::write_safetensors(folder / "in", {{"a.weight", view_of(x, {5, 33})}, {"b.weight", view_of(x, {33, 5})}});
  quantize(folder / "in", folder / "out", {}, 0, true);
  const std::string whole = support::read_file(folder / "out");
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  std::mt19937_64 random(20261123);
  int refused = 0, read = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = whole;
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips) {
      char& c = bytes[8 + random() % header];
      c = random() % 2 ? static_cast<char>(c ^ (1 << random() % 8)) : "{}[]\",:0123456789-eE. abw"[random() % 25];
    }
    support::write_file_atomically(folder / "f", bytes);
    const std::string message = refusal([&] {
      const auto model = PackedModel::open(folder / "f");
      for (const std::string& module : model.modules()) dequantized(model.load(module));
    });
    message.empty() ? ++read : ++refused;
  }
  CHECK(refused > 2000);
  CHECK(read > 20);
}

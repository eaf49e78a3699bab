// Whole fake quantizations against golden vectors: torchao and compressed-tensors for their modes, a NumPy transcription
// of TransformerEngine's formulas for te and te46 (it does not install without CUDA). Each case names its source.
#include <fstream>
#include <nlohmann/json.hpp>

#include "catch.h"
#include "data.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

std::vector<float> matrix(const nlohmann::json& rows) {
  std::vector<float> values;
  for (const auto& row : rows) {
    const auto& text = row.get_ref<const std::string&>();
    for (std::size_t i = 0; i < text.size(); i += 8) {
      values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(std::stoul(text.substr(i, 8), nullptr, 16))));
    }
  }
  return values;
}

// The values go in as `type` and come out of it.
std::vector<float> run_as(Type type, const Spec& spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                          int axis, Path path) {
  if (type == Type::fp32) return run(spec, x, rows, cols, axis, path);
  const bool bf16 = type == Type::bf16;
  std::vector<std::uint16_t> bits;
  for (float v : x) bits.push_back(bf16 ? encode_bf16(v) : encode_fp16(v));
  const ConstView in{bits.data(), type, rows, cols, cols, 1};
  fake_quantize_piece(spec, finite_max(in), in, {bits.data(), type, rows, cols, cols, 1}, axis, 0, nullptr, path);
  std::vector<float> out;
  for (std::uint16_t b : bits) out.push_back(bf16 ? decode_bf16(b) : decode_fp16(b));
  return out;
}

}  // namespace

TEST_CASE("fake quantization equals the golden vectors bit for bit, on every path") {
  int forms = 0;
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    for (const std::string& mode : mode_names(format)) {
      std::ifstream file(assay::test::source("tests/golden/quant/" + mode + ".json"));
      REQUIRE(file);
      const auto golden = nlohmann::json::parse(file);
      REQUIRE(golden["cases"].size() == 13);
      for (const auto& made : golden["cases"]) {
        const std::int64_t rows = made["rows"], cols = made["cols"];
        const auto in = matrix(made["in"]);
        REQUIRE(static_cast<std::int64_t>(in.size()) == rows * cols);
        const Type type = *parse_type(made["type"].get<std::string>());
        for (const std::string form : {"axis1", "axis0", "axis1_scope_row", "axis1_tiles"}) {
          if (!made.contains(form)) continue;
          ++forms;
          const auto expected = matrix(made[form]);
          Spec spec{.format = format, .mode = *parse_mode(format, mode)};
          if (form == "axis1_scope_row") spec.scope = Scope::row;
          spec.tiles = form == "axis1_tiles";
          for (Path path : available_paths()) {
            CAPTURE(mode, made["kind"].get<std::string>(), form, std::string(name(path)));
            CHECK(same_bits(run_as(type, spec, in, rows, cols, form[4] - '0', path), expected));
          }
        }
      }
      CHECK(golden["cases"][0].contains("axis1_scope_row") == has_tensor_scale(*parse_mode(format, mode)));
      CHECK(golden["cases"][0].contains("axis1_tiles") == (format == Format::nvfp4));
    }
  }
  CHECK(forms == 11 * 13 * 2 + 6 + 7);
  report_missing_paths("golden vectors");
}

// Whole fake quantizations against golden vectors: torchao 0.18 for torchao_one_level and floor, a NumPy transcription
// of the formula for te (TransformerEngine itself does not install without CUDA; each case names its source).
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

}  // namespace

TEST_CASE("fake quantization equals the golden vectors bit for bit, on every path") {
  for (const char* mode : {"te", "torchao_one_level", "floor"}) {
    std::ifstream file(assay::test::source(std::string("tests/golden/quant/") + mode + ".json"));
    const auto golden = nlohmann::json::parse(file);
    REQUIRE(golden["cases"].size() == 13);
    Spec spec;
    spec.format = std::string(mode) == "floor" ? Format::mxfp4 : Format::nvfp4;
    spec.mode = *parse_mode(spec.format, mode);
    for (const auto& made : golden["cases"]) {
      const std::int64_t rows = made["rows"], cols = made["cols"];
      const auto in = matrix(made["in"]);
      REQUIRE(static_cast<std::int64_t>(in.size()) == rows * cols);
      for (const char* form : {"axis1", "axis0", "axis1_scope_row"}) {
        if (!made.contains(form)) continue;
        const auto expected = matrix(made[form]);
        Spec one = spec;
        if (std::string(form) == "axis1_scope_row") one.scope = Scope::row;
        for (Path path : available_paths()) {
          CAPTURE(mode, made["kind"].get<std::string>(), form, std::string(name(path)));
          CHECK(same_bits(run(one, in, rows, cols, form[4] - '0', path), expected));
        }
      }
    }
    CHECK(golden["cases"][0].contains("axis1_scope_row") == (std::string(mode) == "te"));
  }
  if (!available(Path::avx2)) assay::test::report_skipped("golden vectors on avx2", "the processor has no x86-64-v3");
}

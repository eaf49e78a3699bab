// The codecs against ml_dtypes: every bf16 encoding, every code, and both neighbours of every midpoint.
#include <bit>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "catch.h"
#include "quant/block.h"
#include "quant/formats.h"

using namespace assay::quant;

namespace {

nlohmann::json golden() {
  std::ifstream file(assay::test::source("tests/golden/quant/codecs.json"));
  return nlohmann::json::parse(file);
}

std::vector<float> floats(const std::string& hexes) {
  std::vector<float> values;
  std::istringstream words(hexes);
  for (std::string word; words >> word;) {
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16))));
  }
  return values;
}

float from_bf16(std::uint32_t encoding) { return std::bit_cast<float>(encoding << 16); }

// Golden codes for all 2^16 encodings, from their runs.
std::vector<int> every_code(const nlohmann::json& runs) {
  std::vector<int> codes(65536);
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const int end = r + 1 < runs.size() ? runs[r + 1][0].get<int>() : 65536;
    for (int i = runs[r][0]; i < end; ++i) codes[static_cast<std::size_t>(i)] = runs[r][1];
  }
  return codes;
}

}  // namespace

TEST_CASE("E2M1 encodes all 65536 bf16 numbers as ml_dtypes does") {
  const auto codes = every_code(golden()["e2m1"]["bf16"]);
  int compared = 0, wrong = 0, wrong_fast = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const float x = from_bf16(i);
    if (std::isnan(x)) continue;  // E2M1 has none
    ++compared;
    wrong += encode_e2m1(x) != codes[i];
    const float expected = decode_e2m1(static_cast<std::uint8_t>(codes[i]));
    wrong_fast += std::bit_cast<std::uint32_t>(block::round_e2m1(x)) != std::bit_cast<std::uint32_t>(expected);
  }
  CHECK(compared == 65536 - 2 * 127);
  CHECK(wrong == 0);
  CHECK(wrong_fast == 0);
}

TEST_CASE("E4M3 encodes all 65536 bf16 numbers as ml_dtypes does, and saturates beyond") {
  const auto codes = every_code(golden()["e4m3"]["bf16"]);
  int wrong = 0, wrong_fast = 0, saturated = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const float x = from_bf16(i);
    int expected = codes[i];
    if ((expected & 0x7f) == 0x7f && !std::isnan(x)) {  // ml_dtypes overflows to NaN above 464
      REQUIRE(std::fabs(x) > 464);
      expected -= 1;
      ++saturated;
    }
    wrong += encode_e4m3(x) != expected;
    if (!std::signbit(x) && !std::isnan(x)) {
      wrong_fast += block::round_e4m3(x) != decode_e4m3(static_cast<std::uint8_t>(expected));
    }
  }
  CHECK(saturated > 30000);
  CHECK(wrong == 0);
  CHECK(wrong_fast == 0);
}

TEST_CASE("fp32 values at and beside every midpoint round as ml_dtypes rounds them") {
  const auto all = golden();
  for (const char* name : {"e2m1", "e4m3"}) {
    const bool narrow = std::string(name) == "e2m1";
    const auto values = floats(all[name]["near"]);
    const auto& codes = all[name]["near_codes"];
    REQUIRE(values.size() == codes.size());
    REQUIRE(values.size() == (narrow ? 42u : 756u));
    for (std::size_t i = 0; i < values.size(); ++i) {
      CAPTURE(name, values[i]);
      CHECK(int(narrow ? encode_e2m1(values[i]) : encode_e4m3(values[i])) == codes[i].get<int>());
      if (narrow || !std::signbit(values[i])) {
        const float fast = narrow ? block::round_e2m1(values[i]) : block::round_e4m3(values[i]);
        const auto code = codes[i].get<std::uint8_t>();
        CHECK(fast == (narrow ? decode_e2m1(code) : decode_e4m3(code)));
      }
    }
  }
}

TEST_CASE("every code decodes as in ml_dtypes and encodes back to itself") {
  const auto all = golden();
  const auto check = [&](const char* name, auto decode, std::size_t codes) {
    const auto values = floats(all[name]["decode"]);
    REQUIRE(values.size() == codes);
    for (std::size_t c = 0; c < codes; ++c) {
      CAPTURE(name, c);
      const float ours = decode(static_cast<std::uint8_t>(c));
      if (std::isnan(values[c])) {
        CHECK(std::isnan(ours));
      } else {
        CHECK(std::bit_cast<std::uint32_t>(ours) == std::bit_cast<std::uint32_t>(values[c]));
      }
    }
  };
  check("e2m1", decode_e2m1, 16);
  check("e4m3", decode_e4m3, 256);
  check("e8m0", decode_e8m0, 256);
  for (int c = 0; c < 16; ++c) CHECK(int(encode_e2m1(decode_e2m1(static_cast<std::uint8_t>(c)))) == c);
  for (int c = 0; c < 256; ++c) CHECK(int(encode_e4m3(decode_e4m3(static_cast<std::uint8_t>(c)))) == c);
}

TEST_CASE("format and mode names") {
  CHECK(parse_format("nvfp4") == Format::nvfp4);
  CHECK(parse_format("mxfp4") == Format::mxfp4);
  CHECK_FALSE(parse_format("NVFP4"));
  CHECK_FALSE(parse_format(""));
  CHECK(parse_mode(Format::nvfp4, "") == Mode::te);
  CHECK(parse_mode(Format::mxfp4, "") == Mode::floor);
  CHECK(parse_mode(Format::nvfp4, "torchao_one_level") == Mode::torchao_one_level);
  CHECK_FALSE(parse_mode(Format::nvfp4, "floor"));
  CHECK_FALSE(parse_mode(Format::mxfp4, "te"));
  CHECK(mode_names(Format::nvfp4) == std::vector<std::string>{"te", "torchao_one_level"});
  CHECK(mode_names(Format::mxfp4) == std::vector<std::string>{"floor"});
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    CHECK(parse_format(name(format)) == format);
    for (const std::string& mode : mode_names(format)) CHECK(name(*parse_mode(format, mode)) == mode);
  }
}

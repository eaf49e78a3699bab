// The codecs against ml_dtypes: every bf16 encoding, every code, and both neighbours of every midpoint.
#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "catch.h"
#include "quant/block.h"
#include "quant/formats.h"
#include "quant/half.h"

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
  for (int c = 0; c < 255; ++c) CHECK(int(encode_e8m0(decode_e8m0(static_cast<std::uint8_t>(c)))) == c);
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
  CHECK(mode_names(Format::nvfp4) ==
        std::vector<std::string>{"te", "te46", "te46_mae", "torchao", "torchao_one_level", "ct", "ct_bf16"});
  CHECK(mode_names(Format::mxfp4) == std::vector<std::string>{"floor", "even", "rceil", "ceil"});
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    CHECK(parse_format(name(format)) == format);
    for (const std::string& mode : mode_names(format)) CHECK(name(*parse_mode(format, mode)) == mode);
  }
}

TEST_CASE("names of scopes, policies, roundings and types are read back") {
  for (Scope v : {Scope::tensor, Scope::row, Scope::fixed}) CHECK(parse_scope(name(v)) == v);
  for (NonFinite v : {NonFinite::propagate, NonFinite::hw_saturate}) CHECK(parse_non_finite(name(v)) == v);
  for (Rounding v : {Rounding::nearest_even, Rounding::stochastic}) CHECK(parse_rounding(name(v)) == v);
  for (Type v : {Type::fp32, Type::bf16, Type::fp16}) CHECK(parse_type(name(v)) == v);
  CHECK(parse_scope("static") == Scope::fixed);
  CHECK_FALSE(parse_scope("fixed"));
  CHECK_FALSE(parse_type(""));
}

TEST_CASE("what a spec cannot be is said in a sentence") {
  CHECK(objection({}, 0).empty());
  CHECK(objection({}, 1).empty());
  CHECK_FALSE(objection({}, 2).empty());
  CHECK_FALSE(objection({.format = Format::mxfp4, .mode = Mode::te}, 1).empty());
  CHECK_FALSE(objection({.format = Format::nvfp4, .mode = Mode::floor}, 1).empty());
  CHECK_FALSE(objection({.format = Format::mxfp4, .mode = Mode::even, .scope = Scope::row}, 1).empty());
  CHECK_FALSE(objection({.mode = Mode::torchao_one_level, .scope = Scope::fixed, .static_max = 1}, 1).empty());
  CHECK(objection({.scope = Scope::row}, 1).empty());
  CHECK_FALSE(objection({.scope = Scope::row}, 0).empty());
  CHECK_FALSE(objection({.scope = Scope::row, .tiles = true}, 1).empty());
  CHECK_FALSE(objection({.scope = Scope::fixed, .static_max = -1}, 1).empty());
  CHECK_FALSE(objection({.scope = Scope::fixed, .static_max = INFINITY}, 1).empty());
  CHECK_FALSE(objection({.format = Format::mxfp4, .mode = Mode::floor, .tiles = true}, 1).empty());
  CHECK_FALSE(objection({.mode = Mode::te46, .rounding = Rounding::stochastic}, 1).empty());
}

TEST_CASE("bf16 and fp16: every encoding decodes and encodes back to itself, fast and slow alike") {
  int wrong = 0, nan = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto h = static_cast<std::uint16_t>(i);
    const float b = decode_bf16(h), f = decode_fp16(h);
    if (std::isnan(b)) wrong += !std::isnan(block::from_bf16(h)) || !std::isnan(decode_bf16(block::to_bf16(b))), ++nan;
    else wrong += block::from_bf16(h) != b || encode_bf16(b) != h || block::to_bf16(b) != h;
    if (std::isnan(f)) wrong += !std::isnan(block::from_fp16(h)) || !std::isnan(decode_fp16(block::to_fp16(f))), ++nan;
    else wrong += block::from_fp16(h) != f || encode_fp16(f) != h || block::to_fp16(f) != h;
  }
  CHECK(nan == 2 * 127 + 2 * 1023);
  CHECK(wrong == 0);
  CHECK(decode_fp16(0x3555) == 0x1.554p-2f);
  CHECK(decode_fp16(0x0001) == 0x1p-24f);
  CHECK(decode_fp16(0x7bff) == 65504);
}

TEST_CASE("rounding to bf16 and fp16: ties to even at and beside every midpoint, Inf beyond the largest") {
  int wrong = 0, compared = 0;
  for (std::uint32_t i = 0; i + 1 < 0x7f80; ++i) {
    const auto lower = static_cast<std::uint16_t>(i), upper = static_cast<std::uint16_t>(i + 1);
    for (const bool bf16 : {true, false}) {
      if (!bf16 && i + 1 >= 0x7c00) continue;
      const auto decode = bf16 ? decode_bf16 : decode_fp16;
      const auto encode = bf16 ? encode_bf16 : encode_fp16;
      const float middle = static_cast<float>((double(decode(lower)) + double(decode(upper))) / 2);
      for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e38f)}) {
        const std::uint16_t expected = x == middle ? (i & 1 ? upper : lower) : x < middle ? lower : upper;
        if (x == decode(lower) || x == decode(upper)) continue;  // the step of fp32 is the step of bf16's subnormals
        ++compared;
        wrong += encode(x) != expected || (bf16 ? block::to_bf16(x) : block::to_fp16(x)) != expected;
        wrong += encode(-x) != (expected | 0x8000) || (bf16 ? block::to_bf16(-x) : block::to_fp16(-x)) != (expected | 0x8000);
      }
    }
  }
  CHECK(compared > 190000);
  CHECK(wrong == 0);
  for (const float x : {65520.0f, 1e6f, INFINITY}) CHECK((encode_fp16(x) == 0x7c00 && block::to_fp16(x) == 0x7c00));
  CHECK(encode_fp16(65519) == 0x7bff);
  CHECK(encode_bf16(std::numeric_limits<float>::max()) == 0x7f80);
}

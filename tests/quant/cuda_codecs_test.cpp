// Our codecs against the host code of CUDA's own headers (cuda_fp4.h, cuda_fp8.h, cuda_fp16.h, cuda_bf16.h), bit by bit.
//
// One difference is meant: a NaN keeps its sign in our E4M3, and in our bf16 and fp16 is the quiet one (0x7fc0, 0x7e00),
// where CUDA's is 0x7f and 0x7fff without a sign. NaN is compared for what it should be, apart.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <random>

#include "catch.h"
#include "quant/cuda/bodies.h"
#include "quant/formats.h"
#include "quant/half.h"

using namespace assay::quant;

namespace {

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }
float from_half(__half_raw h) { return __half2float(h); }

struct Count {
  std::int64_t compared = 0, different = 0;
};
using Counts = std::map<std::string, Count>;

void compare_nan(float x) {
  CHECK(__nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest) == 7);  // as NonFinite::hw_saturate
  CHECK(int(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)) == 0x7f);
  CHECK((encode_e4m3(x) & 0x7f) == 0x7f);
  CHECK((block::to_bf16(x) & 0x7fff) == 0x7fc0);
  CHECK((block::to_fp16(x) & 0x7fff) == 0x7e00);
}

// Of values that are not NaN.
void compare(const std::vector<float>& values, Counts& counts) {
  const auto count = [&](const char* what, auto differs) {
    Count& c = counts[what];
    for (const float x : values) c.different += differs(x);
    c.compared += static_cast<std::int64_t>(values.size());
  };
  const auto fp4 = [](float x) { return __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest); };
  const auto fp8 = [](float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); };
  count("E2M1, scalar", [&](float x) { return encode_e2m1(x) != fp4(x); });
  count("E2M1, branch-free", [&](float x) {
    const float q = from_half(__nv_cvt_fp4_to_halfraw(fp4(x), __NV_E2M1));
    return bits(block::round_e2m1(x)) != bits(q);
  });
  count("E2M1, pairs", [&](float x) {
    const float other = -0.5f * x;
    const auto byte = cuda::code_byte(block::round_e2m1(x), block::round_e2m1(other));
    return byte != __nv_cvt_float2_to_fp4x2(float2{x, other}, __NV_E2M1, cudaRoundNearest);
  });
  count("E4M3, scalar", [&](float x) { return encode_e4m3(x) != fp8(x); });
  count("E4M3, branch-free", [&](float x) {
    const float a = std::fabs(x);
    return cuda::scale_byte<16>(!std::isnan(a), block::round_e4m3(a)) != fp8(a);
  });
  // E8M0 as the rules use it: of a maximum a quarter down and up, and a sixth up. CUDA has no NaN for finite numbers here.
  const auto e8m0 = [](float v, cudaRoundMode mode) { return __nv_cvt_float_to_e8m0(v, __NV_SATFINITE, mode); };
  const auto finite = [](float x) { return std::isfinite(x) ? std::fabs(x) : 1.0f; };
  count("E8M0, floor", [&](float x) {
    return cuda::scale_byte<32>(true, block::Floor(0)(finite(x)).stored) != e8m0(finite(x) * 0.25f, cudaRoundZero);
  });
  count("E8M0, ceil", [&](float x) {
    return cuda::scale_byte<32>(true, block::Ceil(0)(finite(x)).stored) != e8m0(finite(x) * 0.25f, cudaRoundPosInf);
  });
  count("E8M0, rceil", [&](float x) {
    return cuda::scale_byte<32>(true, block::Rceil(0)(finite(x)).stored) != e8m0(finite(x) * block::one_sixth, cudaRoundPosInf);
  });
  count("bf16", [&](float x) { return block::to_bf16(x) != __nv_bfloat16_raw(__float2bfloat16_rn(x)).x; });
  count("fp16", [&](float x) { return block::to_fp16(x) != __half_raw(__float2half_rn(x)).x; });
}

// A third each: any bits (so log-uniform over all exponents), the range of the codes, and ties: on, or one step beside,
// a midpoint of E2M1 or E4M3.
void random_values(std::mt19937_64& generator, std::vector<float>& values) {
  for (float& v : values) {
    const std::uint64_t r = generator();
    const auto low = static_cast<std::uint32_t>(r);
    const auto kind = (r >> 32) % 3;
    if (kind == 0) {
      v = std::bit_cast<float>(low);
      if (std::isnan(v)) v = std::bit_cast<float>(low & 0xbfffffff);
    } else if (kind == 1) {
      v = static_cast<float>(static_cast<std::int32_t>(low)) * (r >> 63 ? 0x1p-28f : 0x1p-22f);  // to 8, to 512
    } else {
      const int code = static_cast<int>((low >> 8) % (low & 1 ? 7 : 0x7e)), step = static_cast<int>(low & 0xff) % 3 - 1;
      const auto decode = [&](int c) {
        return low & 1 ? decode_e2m1(static_cast<std::uint8_t>(c)) : decode_e4m3(static_cast<std::uint8_t>(c));
      };
      v = (decode(code) + decode(code + 1)) / 2;
      if (step) v = std::nextafter(v, static_cast<float>(step) * 1e9f);
      if (r >> 63) v = -v;
    }
  }
}

void check(const Counts& counts) {
  for (const auto& [what, c] : counts) {
    CAPTURE(what, c.compared);
    CHECK(c.different == 0);
  }
}

Counts compare_random(std::int64_t n, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  Counts counts;
  for (std::int64_t done = 0; done < n;) {
    std::vector<float> values(static_cast<std::size_t>(std::min<std::int64_t>(n - done, 1 << 16)));
    random_values(generator, values);
    compare(values, counts);
    done += static_cast<std::int64_t>(values.size());
  }
  return counts;
}

}  // namespace

TEST_CASE("every code decodes as in CUDA's headers") {
  for (int c = 0; c < 256; ++c) {
    const auto code = static_cast<std::uint8_t>(c);
    CAPTURE(c);
    if (c < 16) CHECK(bits(decode_e2m1(code)) == bits(from_half(__nv_cvt_fp4_to_halfraw(code, __NV_E2M1))));
    const float e4m3 = from_half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)), ours = decode_e4m3(code);
    if (std::isnan(e4m3)) CHECK(std::isnan(ours));
    else CHECK(bits(ours) == bits(e4m3));
    const float e8m0 = std::bit_cast<float>(static_cast<std::uint32_t>(__nv_cvt_e8m0_to_bf16raw(code).x) << 16);
    if (std::isnan(e8m0)) CHECK(std::isnan(decode_e8m0(code)));
    else CHECK(bits(decode_e8m0(code)) == bits(e8m0));
  }
  int wrong = 0;
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const float theirs = from_half(__half_raw{static_cast<unsigned short>(h)});
    const float ours = block::from_fp16(static_cast<std::uint16_t>(h));
    wrong += std::isnan(theirs) ? !std::isnan(ours) : bits(ours) != bits(theirs);
  }
  CHECK(wrong == 0);
}

TEST_CASE("all 65536 bf16 numbers encode as in CUDA's headers") {
  std::vector<float> values;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const float x = std::bit_cast<float>(i << 16);
    if (std::isnan(x)) compare_nan(x);
    else values.push_back(x);
  }
  Counts counts;
  compare(values, counts);
  check(counts);
}

TEST_CASE("random fp32 numbers and ties encode as in CUDA's headers") { check(compare_random(300'000, 1)); }

// Hidden: what tests/parity/quant/cuda_codecs_parity.py runs, with its figures.
TEST_CASE("1e8 random fp32 numbers and ties encode as in CUDA's headers", "[.parity]") {
  const Counts counts = compare_random(100'000'000, 2);
  for (const auto& [what, c] : counts) {
    std::printf("%-18s %lld values: %lld differing\n", what.c_str(), static_cast<long long>(c.compared),
                static_cast<long long>(c.different));
  }
  check(counts);
}

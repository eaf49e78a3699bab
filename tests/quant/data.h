// Matrices for the tests of quant/: random, and made to hurt.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "catch.h"
#include "quant/reference.h"

namespace assay::quant::test {

struct Named {
  std::string name;
  Spec spec;
};

// Every mode, then what scopes and tiles add.
inline std::vector<Named> all_specs() {
  std::vector<Named> specs;
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    for (const std::string& mode : mode_names(format)) specs.push_back({mode, {format, *parse_mode(format, mode)}});
  }
  for (Mode mode : {Mode::te, Mode::te46, Mode::torchao, Mode::ct, Mode::ct_bf16}) {
    specs.push_back({std::string(name(mode)) + ", scope row", {Format::nvfp4, mode, Scope::row}});
  }
  for (Mode mode : {Mode::te, Mode::te46_mae, Mode::torchao_one_level, Mode::ct}) {
    specs.push_back({std::string(name(mode)) + ", tiles", {.mode = mode, .tiles = true}});
  }
  return specs;
}

inline bool takes_axis(const Spec& spec, int axis) { return objection(spec, axis).empty(); }

inline std::vector<Path> available_paths() {
  std::vector<Path> paths;
  for (Path path : {Path::reference, Path::generic, Path::avx2, Path::avx512}) {
    if (available(path)) paths.push_back(path);
  }
  return paths;
}

inline void report_missing_paths(const std::string& what) {
  if (!available(Path::avx2)) assay::test::report_skipped(what + " on avx2", "the processor has no x86-64-v3");
  if (!available(Path::avx512)) assay::test::report_skipped(what + " on avx512", "the processor has no x86-64-v4");
}

inline std::vector<float> normal(std::int64_t n, std::uint32_t seed, float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0, sigma);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = distribution(generator);
  return x;
}

// Any bit pattern; finite ones only unless told otherwise.
inline std::vector<float> any_bits(std::int64_t n, std::uint32_t seed, bool non_finite = false) {
  std::mt19937 generator(seed);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) {
    do {
      v = std::bit_cast<float>(static_cast<std::uint32_t>(generator()));
    } while (!non_finite && !std::isfinite(v));
  }
  return x;
}

// Runs of zeros, subnormals, powers of two, grid points and their midpoints, and the largest numbers, a few octaves
// apart within a block, so that ties, underflow and saturation all happen.
inline std::vector<float> nasty(std::int64_t n, std::uint32_t seed) {
  static const float values[] = {0.0f,   -0.0f, 0.25f, 0.5f,  0.75f, 1.0f,   1.25f,          1.5f,          1.75f,
                                 2.0f,   2.5f,  3.0f,  3.5f,  4.0f,  4.5f,   5.0f,           6.0f,          7.0f,
                                 448.0f, 464.f, 2688.f, 1e-3f, 1e-9f, 1e-45f, 0x1.fffffep-127f, 0x1.fffffep+0f, 0.0f};
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> pick(0, static_cast<int>(std::size(values)) - 1), exponent(-3, 3), sign(0, 1),
      step(-1, 1), octave(-120, 110);
  std::vector<float> x(static_cast<std::size_t>(n));
  int shift = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % 64 == 0) shift = i % 256 == 0 ? octave(generator) : 0;
    float v = std::ldexp(values[pick(generator)], exponent(generator) + shift);
    if (const int s = step(generator)) v = std::nextafter(v, s * std::numeric_limits<float>::infinity());
    if (!std::isfinite(v)) v = std::numeric_limits<float>::max();
    x[i] = sign(generator) ? -v : v;
  }
  return x;
}

inline std::vector<float> run(const Spec& spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                              int axis = 1, Path path = best_path()) {
  std::vector<float> out(x.size());
  const float tensor_max = finite_max(x.data(), rows * cols);
  fake_quantize_piece(spec, tensor_max, x.data(), out.data(), rows, cols, axis, nullptr, path);
  return out;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace assay::quant::test

// The table of measured differences in quant/README.md.
//   quant_modes            prints it
//   quant_modes README.md  exits 1, naming them, when rows of it are not in that file
// bf16 N(0,1), 16 tensors of 256 x 256, blocks along rows, against te or floor under the same tensor. Four-over-Six has
// another tensor scale than te, and torchao_one_level none, so that their block scales differ everywhere.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "quant/reference.h"

namespace {

using namespace assay::quant;

constexpr std::int64_t side = 256;
constexpr std::uint32_t tensors = 16;

std::vector<float> normal_bf16(std::uint32_t seed, double sigma) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> distribution(0, sigma);
  std::vector<float> x(side * side);
  for (float& v : x) v = decode_bf16(encode_bf16(static_cast<float>(distribution(generator))));
  return x;
}

struct Quantized {
  std::vector<float> scales;
  std::vector<std::uint8_t> codes;
};

Quantized quantize(const Spec& spec, const std::vector<float>& x) {
  const float a = finite_max(x.data(), side * side);
  const int block = spec.block();
  std::vector<float> unused(static_cast<std::size_t>(block));
  Quantized result{{}, std::vector<std::uint8_t>(x.size())};
  for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(block)) {
    const BlockShape shape{.width = block};
    result.scales.push_back(reference_block(spec, a, x.data() + i, unused.data(), shape, result.codes.data() + i).stored);
  }
  return result;
}

template <class T>
double share_that_differs(const std::vector<T>& a, const std::vector<T>& b) {
  std::size_t differing = 0;
  for (std::size_t i = 0; i < a.size(); ++i) differing += a[i] != b[i];
  return static_cast<double>(differing) / static_cast<double>(a.size());
}

// The mean over the tensors and, where that is small, the largest: with few bits in A it varies from tensor to tensor.
std::string percent(const std::vector<double>& shares) {
  const double mean = std::accumulate(shares.begin(), shares.end(), 0.0) / tensors;
  const double largest = *std::max_element(shares.begin(), shares.end());
  char text[64];
  std::snprintf(text, sizeof text, mean == 1 ? "all" : mean < 0.1 ? "%.2f %% (to %.2f %%)" : "%.0f %%", 100 * mean, 100 * largest);
  return text;
}

std::string row(const Spec& spec, const Spec& base) {
  std::vector<double> scales, codes;
  ErrorStats unit, small;
  std::vector<float> out(side * side);
  for (std::uint32_t seed = 1; seed <= tensors; ++seed) {
    const auto x = normal_bf16(seed, 1), weights = normal_bf16(seed, 0.02);
    if (!(spec == base)) {
      const Quantized ours = quantize(spec, x), theirs = quantize(base, x);
      scales.push_back(share_that_differs(ours.scales, theirs.scales));
      codes.push_back(share_that_differs(ours.codes, theirs.codes));
    }
    fake_quantize(spec, x.data(), out.data(), side, side, 1, &unit);
    fake_quantize(spec, weights.data(), out.data(), side, side, 1, &small);
  }
  char sqnr[64];
  std::snprintf(sqnr, sizeof sqnr, "%.1f dB | %.1f dB", unit.sqnr_db(), small.sqnr_db());
  const std::string shares = spec == base ? "– | –" : percent(scales) + " | " + percent(codes);
  return "| `" + std::string(name(spec.mode)) + "` | " + shares + " | " + sqnr + " |";
}

}  // namespace

int main(int argc, char** argv) {
  std::string readme;
  if (argc > 1) {
    std::ifstream file(argv[1]);
    readme.assign(std::istreambuf_iterator<char>(file), {});
  }
  int missing = 0;
  for (const Format format : {Format::nvfp4, Format::mxfp4}) {
    const Spec base{format, *parse_mode(format, "")};
    for (const std::string& mode : mode_names(format)) {
      const std::string line = row({format, *parse_mode(format, mode)}, base);
      if (argc > 1 && readme.find(line + "\n") != std::string::npos) continue;
      missing += argc > 1;
      std::printf("%s%s\n", argc > 1 ? "not in the README: " : "", line.c_str());
    }
  }
  return missing > 0;
}

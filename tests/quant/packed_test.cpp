// Packed storage: what comes out is what fake_quantize() gives, and the bytes are laid out as quant/packed.h says.
#include "quant/packed.h"

#include <algorithm>

#include "catch.h"
#include "data.h"

using namespace assay::quant;
using namespace assay::quant::test;

namespace {

std::vector<float> unpacked(const Packed& packed) {
  std::vector<float> out(static_cast<std::size_t>(packed.rows * packed.cols));
  dequantize(packed, out.data());
  return out;
}

std::vector<float> reference(const Spec& spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                             int axis) {
  return run(spec, x, rows, cols, axis, Path::reference);
}

// The first element whose bits differ, for a message.
std::string difference(const std::vector<float>& got, const std::vector<float>& wanted) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(wanted[i])) {
      char text[160];
      std::snprintf(text, sizeof text, "at %zu: unpacked %a, fake-quantized %a", i, double(got[i]), double(wanted[i]));
      return text;
    }
  }
  return "";
}

}  // namespace

TEST_CASE("dequantize(pack(x)) is fake_quantize(x), bit for bit: every mode, axis, path, type, shape and kind of data") {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{1, 1},   {1, 15},  {3, 17},  {16, 1},
                                                          {33, 70}, {40, 96}, {17, 130}, {2, 4200}};
  std::uint32_t seed = 0;
  std::vector<Named> specs = all_specs();
  for (const Named& named : all_specs()) {
    Spec spec = named.spec;
    spec.rounding = Rounding::stochastic;
    spec.seed = 77;
    if (objection(spec, 1).empty()) specs.push_back({named.name + ", stochastic", spec});
    if (named.spec.scope == Scope::tensor && has_tensor_scale(spec.mode)) {
      spec = named.spec;
      spec.scope = Scope::fixed;
      spec.static_max = 0.7f;
      specs.push_back({named.name + ", static", spec});
    }
  }
  for (const Named& named : specs) {
    for (NonFinite policy : {NonFinite::propagate, NonFinite::hw_saturate}) {
      for (const auto& [rows, cols] : shapes) {
        for (int kind = 0; kind < 4; ++kind) {
          const std::int64_t n = rows * cols;
          ++seed;
          const auto x = kind == 0   ? normal(n, seed)
                         : kind == 1 ? any_bits(n, seed, false)
                         : kind == 2 ? any_bits(n, seed, true)
                                     : nasty(n, seed);
          Spec spec = named.spec;
          spec.non_finite = policy;
          for (int axis : {1, 0}) {
            if (!takes_axis(spec, axis)) continue;
            INFO(named.name << ", " << rows << " x " << cols << ", axis " << axis << ", kind " << kind);
            const Packed packed = pack(spec, x.data(), rows, cols, axis);
            const std::string wrong = difference(unpacked(packed), reference(spec, x, rows, cols, axis));
            INFO(wrong);
            CHECK(wrong.empty());
            for (Path path : available_paths()) {
              Packed other = packed;
              std::fill(other.codes.begin(), other.codes.end(), std::uint8_t{0xa5});
              std::fill(other.scales.begin(), other.scales.end(), std::uint8_t{0xa5});
              const bool by_row = spec.scope == Scope::row;
              const float tensor_max = packed.maxima.empty() ? 0 : packed.maxima[0];
              pack_piece(spec, tensor_max, view(x.data(), rows, cols), axis, 0, other.codes.data(), other.scales.data(),
                         by_row ? other.maxima.data() : nullptr, path);
              INFO(name(path));
              CHECK(other.codes == packed.codes);
              CHECK(other.scales == packed.scales);
              CHECK(other.maxima == packed.maxima);
              std::vector<float> out(x.size());
              dequantize_piece(spec, tensor_max, by_row ? packed.maxima.data() : nullptr, packed.codes.data(),
                               packed.scales.data(), rows, cols, axis, out.data(), path);
              CHECK(same_bits(out, unpacked(packed)));
            }
          }
        }
      }
    }
  }
  report_missing_paths("packing");
}

TEST_CASE("bf16, fp16 and transposed views pack like the fp32 matrix of the same values") {
  for (const Named& named : all_specs()) {
    for (Type type : {Type::bf16, Type::fp16}) {
      const std::int64_t rows = 35, cols = 51;
      std::vector<std::uint16_t> half;
      std::vector<float> wide, transposed(static_cast<std::size_t>(rows * cols));
      for (float v : normal(rows * cols, 91)) half.push_back(type == Type::bf16 ? encode_bf16(v) : encode_fp16(v));
      for (std::uint16_t h : half) wide.push_back(type == Type::bf16 ? decode_bf16(h) : decode_fp16(h));
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) transposed[std::size_t(c * rows + r)] = wide[std::size_t(r * cols + c)];
      for (int axis : {1, 0}) {
        if (!takes_axis(named.spec, axis)) continue;
        const Packed plain = pack(named.spec, wide.data(), rows, cols, axis);
        const Packed narrow = pack(named.spec, {half.data(), type, rows, cols, cols, 1}, axis);
        const Packed turned = pack(named.spec, {transposed.data(), Type::fp32, rows, cols, 1, rows}, axis);
        CAPTURE(named.name, axis, name(type));
        CHECK(narrow.codes == plain.codes);
        CHECK(narrow.scales == plain.scales);
        CHECK(narrow.maxima == plain.maxima);
        CHECK(turned.codes == plain.codes);
        CHECK(turned.scales == plain.scales);
      }
    }
  }
}

TEST_CASE("pieces of a matrix pack to the same bytes as the whole") {
  for (const Named& named : all_specs()) {
    for (Rounding rounding : {Rounding::nearest_even, Rounding::stochastic}) {
      Spec spec = named.spec;
      spec.rounding = rounding;
      const std::int64_t rows = 96, cols = 50;
      const auto x = nasty(rows * cols, 77);
      for (int axis : {1, 0}) {
        if (!takes_axis(spec, axis)) continue;
        const Packed whole = pack(spec, x.data(), rows, cols, axis);
        Packed pieces = whole;
        std::fill(pieces.codes.begin(), pieces.codes.end(), std::uint8_t{0});
        std::fill(pieces.scales.begin(), pieces.scales.end(), std::uint8_t{0});
        const float tensor_max = whole.maxima.empty() ? 0 : whole.maxima[0];
        const bool by_row = spec.scope == Scope::row;
        const std::int64_t step = 32;
        for (std::int64_t r = 0; r < rows; r += step) {
          pack_piece(spec, tensor_max, view(x.data() + r * cols, step, cols), axis, r,
                     pieces.codes.data() + code_count(r, cols), pieces.scales.data() + scale_count(spec, r, cols, axis),
                     by_row ? pieces.maxima.data() + r : nullptr);
        }
        CAPTURE(named.name, axis);
        CHECK(pieces.codes == whole.codes);
        CHECK(pieces.scales == whole.scales);
        CHECK(pieces.maxima == whole.maxima);
      }
    }
  }
}

TEST_CASE("golden bytes, by hand from the OCP code tables") {
  // The maximum of 6 makes both scales 1 (E4M3 0x38; E8M0 0x7f, since 6 lies in [4, 8)), so elements are codes.
  std::vector<float> x = {0, -0.0f, .5f, -.5f, 1, -1, 1.5f, -1.5f, 2, -2, 3, -3, 4, -4, 6, -6};
  const std::vector<std::uint8_t> codes = {0x80, 0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7};
  const Packed one = pack({Format::nvfp4, Mode::torchao_one_level}, x.data(), 1, 16, 1);
  CHECK(one.codes == codes);
  CHECK(one.scales == std::vector<std::uint8_t>{0x38});
  CHECK(one.maxima.empty());
  const Packed te = pack({}, x.data(), 1, 16, 1);  // 448 under the tensor scale 6 / 2688
  CHECK(te.codes == codes);
  CHECK(te.scales == std::vector<std::uint8_t>{0x7e});
  CHECK(te.maxima == std::vector<float>{6});
  const Packed mx = pack({Format::mxfp4, Mode::floor}, x.data(), 1, 16, 1);  // half a block
  CHECK(mx.codes == codes);
  CHECK(mx.scales == std::vector<std::uint8_t>{0x7f});
  // Down a column: the same codes, each in the low nibble of a byte of its own.
  const Packed down = pack({Format::mxfp4, Mode::floor}, x.data(), 16, 1, 0);
  CHECK(down.codes == std::vector<std::uint8_t>{0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15});
  CHECK(down.scales == std::vector<std::uint8_t>{0x7f});
  // NaN: the scale says so, in both formats; under hw_saturate a code does.
  x[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(pack({}, x.data(), 1, 16, 1).scales == std::vector<std::uint8_t>{0x7f});
  CHECK(pack({}, x.data(), 1, 16, 1).codes == std::vector<std::uint8_t>(8, 0));
  CHECK(pack({Format::mxfp4, Mode::floor}, x.data(), 1, 16, 1).scales == std::vector<std::uint8_t>{0xff});
  const Spec saturate{Format::mxfp4, Mode::floor, Scope::tensor, NonFinite::hw_saturate};
  CHECK(pack(saturate, x.data(), 1, 16, 1).codes[1] == 0x71);
}

TEST_CASE("sizes: two codes a byte, rows on bytes, partial blocks have a scale, nothing for nothing") {
  for (const Named& named : all_specs()) {
    const int b = named.spec.block();
    const auto x = normal(5 * (2 * b + 1), 3);
    const Packed packed = pack(named.spec, x.data(), 5, 2 * b + 1, 1);
    CHECK(packed.codes.size() == std::size_t(5 * (b + 1)));
    CHECK(packed.scales.size() == 15);
    for (int r = 0; r < 5; ++r) CHECK(packed.codes[std::size_t(r * (b + 1) + b)] < 16);  // nothing beside an odd last one
    CHECK(pack(named.spec, x.data(), 0, 7, 1).codes.empty());
    CHECK(pack(named.spec, x.data(), 7, 0, 1).scales.empty());
    CHECK(unpacked(pack(named.spec, view(x.data(), 0, 7), 1)).empty());
  }
}

TEST_CASE("every code and every scale byte dequantizes to the codecs' product") {
  for (Format format : {Format::nvfp4, Format::mxfp4}) {
    const int b = format == Format::nvfp4 ? 16 : 32;
    const Spec spec{format, format == Format::nvfp4 ? Mode::torchao_one_level : Mode::floor};
    for (int byte = 0; byte < 256; ++byte) {
      if (format == Format::nvfp4 && byte > 0x7f) break;  // block scales are never negative
      std::vector<std::uint8_t> codes, scales{static_cast<std::uint8_t>(byte)};
      for (int i = 0; i < b; i += 2) codes.push_back(static_cast<std::uint8_t>((i & 15) | (i + 1) << 4));
      std::vector<float> out(static_cast<std::size_t>(b));
      for (Path path : available_paths()) {
        dequantize_piece(spec, 0, nullptr, codes.data(), scales.data(), 1, b, 1, out.data(), path);
        const float scale = format == Format::nvfp4 ? decode_e4m3(scales[0]) : decode_e8m0(scales[0]);
        for (int i = 0; i < b; ++i) {
          const float wanted = decode_e2m1(static_cast<std::uint8_t>(i & 15)) * scale;
          const float got = out[static_cast<std::size_t>(i)];
          if (std::isnan(wanted) ? !std::isnan(got) : std::bit_cast<std::uint32_t>(got) != std::bit_cast<std::uint32_t>(wanted)) {
            INFO("byte " << byte << ", code " << (i & 15) << ": " << got << " instead of " << wanted);
            CHECK(false);
          }
        }
        // With a given divisor: q * (s / g).
        dequantize_divided(format, 448.0f, codes.data(), scales.data(), 1, b, 1, out.data(), path);
        CHECK((std::isnan(scale) ? std::isnan(out[1]) : out[1] == 0.5f * (scale / 448.0f)));
      }
    }
  }
}

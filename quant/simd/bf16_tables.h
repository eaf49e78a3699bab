// bf16 on AVX2, by tables of bytes: included after bf16_loops.h's levels, with whose bits it agrees, for avx2.cpp and
// avx512.cpp. Intrinsics, because no vectoriser makes shuffles out of look-ups.
//
// Counted from an eighth of the magnitude where level 1.5 begins, every octave of magnitudes holds one place at most
// where a level begins: .5, none, 1, 2, 4, none. So an element's octave (a byte) gives that place, a comparison with
// the rest of its bits (another byte) tells on which side it is, and both together are the index of the result: 32
// elements at once, in about as many instructions.
//
// Scales that differ by a power of two have the same tables, moved by as many octaves. An E4M3 scale has one of eight
// mantissas, a power of two one. So a matrix has eight tables, and a block one of them and a shift.

#include <immintrin.h>

#include <algorithm>
#include <type_traits>

namespace assay::quant::simd {
namespace {

// NVFP4's tables are those of the smallest scales, MXFP4's those of the scale 1; this far the shifts go.
constexpr int least_e4m3_exponent = 127 - 9, most_e4m3_exponent = 127 + 8, most_exponent = 100;
template <bool Mxfp4>
constexpr int most_shift = (Mxfp4 ? most_exponent : most_e4m3_exponent - least_e4m3_exponent) * octave;
constexpr int octaves_below = 3;  // that the count begins before level 1.5

// Shifted by all that E4M3 has, the scales stay where find_levels() is exact.
ASSAY_TARGET bool tables_are_exact(const float* encode, const float* decode) {
  bool inside = true;
  for (int m = 0; m < 8; ++m) {
    inside &= encode[m] >= 0x1p-80f && encode[m] <= most_scale && decode[m] >= least_scale && decode[m] <= 0x1p80f;
  }
  return inside;
}

template <bool Mxfp4>
ASSAY_TARGET bool find_tables(Job& job) {
  using State = Bf16Tables::State;
  Bf16Tables& to = job.tables;
  if (to.state != State::unknown) return to.state == State::usable;
  float encode[8], decode[8];
  if constexpr (Mxfp4) {
    for (int m = 0; m < 8; ++m) encode[m] = decode[m] = 1;
  } else {
    with_nvfp4_rule(job.spec.mode, [&](auto tag) ASSAY_QUANT_LAMBDA {
      const typename decltype(tag)::type rule(job.tensor_max);
      for (int m = 0; m < 8; ++m) {
        const Scale scale = rule.of(float_of(least_e4m3_exponent << 23 | m << 20));
        encode[m] = scale.encode, decode[m] = scale.decode;
      }
    });
  }
  to.state = tables_are_exact(encode, decode) ? State::usable : State::unusable;
  if (to.state == State::unusable) return false;
  Levels<8> l;
  find_levels(encode, decode, 8, l);
  const std::int16_t* rows[7] = {l.below_half, l.below_1,     l.reaches_3_halves,  l.below_2,
                                 l.half,       l.of_3_halves, l.from_3_halves_to_2};
  for (int i = 0; i < 7; ++i) std::copy_n(rows[i], 8, to.levels[i]);
  for (int m = 0; m < 8; ++m) {
    Bf16Tables::Table& table = to.of_mantissa[m];
    const int first = l.reaches_3_halves[m] - octaves_below * octave;
    to.first[m] = first;
    constexpr std::uint8_t none = 127;
    const int places[16] = {l.below_half[m] - first, none, l.below_1[m] - first - 2 * octave, l.below_2[m], l.below_2[m],
                            none, none, none, none, none, none, none, none, none, none, none};
    const int half = l.half[m], one = half + octave, three_halves = l.of_3_halves[m] + octave;
    const int six = three_halves + 2 * octave;
    // Twice the octave, and one more behind its place.
    const int results[16] = {0, half, half, half, half, one, three_halves, one + octave, three_halves + octave,
                             one + 2 * octave, six, six, six, six, six, six};
    for (int i = 0; i < 16; ++i) {
      // 0 stays 0 when the rest of the shift is taken off again, with saturation.
      const int result = results[i] == 0 ? 0 : results[i] + most_shift<Mxfp4>;
      table.place[i] = static_cast<std::uint8_t>(places[i]);
      table.low[i] = static_cast<std::uint8_t>(result & 255);
      table.high[i] = static_cast<std::uint8_t>(result >> 8);
    }
  }
  return true;
}

// The block scales alone, and not what is divided by them.
template <bool Mxfp4>
ASSAY_TARGET void stored_scales(const Job& job, const std::int32_t* maxima, int n, float* stored) {
  const auto by_rule = [&](auto tag) ASSAY_QUANT_LAMBDA {
    const typename decltype(tag)::type rule(job.tensor_max);
    for (int b = 0; b < n; ++b) stored[b] = rule(float_of(maxima[b])).stored;
  };
  if constexpr (Mxfp4) with_mxfp4_rule(job.spec.mode, by_rule);
  else with_nvfp4_rule(job.spec.mode, by_rule);
}

// Of n <= N blocks: the table, as an offset in bytes; and in 16 bits each where the count of octaves begins and what is
// taken off the results.
template <int N>
struct Places {
  alignas(32) std::int32_t table[N], first_and_rest[N];
};

// False where a result could be no normal bf16 number.
template <bool Mxfp4, int N>
ASSAY_TARGET bool find_places(const Bf16Tables& tables, const float* stored, const std::int32_t* maxima, int n,
                              Places<N>& to) {
  const __m256i first_of = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tables.first));
  const __m256i zero = _mm256_setzero_si256();
  __m256i outside = zero;
  for (int b = 0; b < n; b += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(stored + b));
    const __m256i octaves = _mm256_sub_epi32(_mm256_srli_epi32(bits, 23),
                                             _mm256_set1_epi32(Mxfp4 ? 127 : least_e4m3_exponent));
    __m256i table = zero, nothing;
    if constexpr (Mxfp4) {
      nothing = _mm256_cmpeq_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(maxima + b)), zero);
      const __m256i far = _mm256_cmpgt_epi32(_mm256_abs_epi32(octaves), _mm256_set1_epi32(most_exponent));
      outside = _mm256_or_si256(outside, _mm256_andnot_si256(nothing, far));
    } else {
      nothing = _mm256_cmpeq_epi32(bits, zero);
      table = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(7));
    }
    const __m256i shift = _mm256_slli_epi32(octaves, 7);
    const __m256i first = _mm256_add_epi32(_mm256_permutevar8x32_epi32(first_of, table), shift);
    const __m256i rest = _mm256_sub_epi32(_mm256_set1_epi32(most_shift<Mxfp4>), shift);
    // Under a scale of 0, and in a block of zeros, no magnitude reaches where the count begins.
    const __m256i low = _mm256_blendv_epi8(first, _mm256_set1_epi32(0x7fff), nothing);
    static_assert(sizeof(Bf16Tables::Table) == 64);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.table + b), _mm256_slli_epi32(table, 6));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.first_and_rest + b),
                       _mm256_or_si256(low, _mm256_slli_epi32(rest, 16)));
  }
  return _mm256_testz_si256(outside, outside) != 0;
}

struct Table256 {
  __m256i place, low, high;
};
// `first` in one half, `second` in the other.
ASSAY_TARGET ASSAY_QUANT_INLINE Table256 table_of(const Bf16Tables::Table& first, const Bf16Tables::Table& second) {
  const auto both = [](const std::uint8_t* a, const std::uint8_t* b) ASSAY_TARGET ASSAY_QUANT_LAMBDA {
    return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(b), reinterpret_cast<const __m128i*>(a));
  };
  return {both(first.place, second.place), both(first.low, second.low), both(first.high, second.high)};
}

// 32 elements, 16 in x and 16 in y, become their results.
ASSAY_TARGET ASSAY_QUANT_INLINE void by_table(__m256i& x, __m256i& y, const Table256& table, __m256i first_x,
                                              __m256i first_y, __m256i rest_x, __m256i rest_y) {
  const __m256i magnitude_mask = _mm256_set1_epi16(0x7fff), within_mask = _mm256_set1_epi16(octave - 1);
  const __m256i magnitude_x = _mm256_and_si256(x, magnitude_mask), magnitude_y = _mm256_and_si256(y, magnitude_mask);
  const __m256i above_x = _mm256_subs_epu16(magnitude_x, first_x), above_y = _mm256_subs_epu16(magnitude_y, first_y);
  const __m256i octaves = _mm256_packus_epi16(_mm256_srli_epi16(above_x, 7), _mm256_srli_epi16(above_y, 7));
  const __m256i within = _mm256_packus_epi16(_mm256_and_si256(above_x, within_mask),
                                             _mm256_and_si256(above_y, within_mask));
  const __m256i octave_index = _mm256_min_epu8(octaves, _mm256_set1_epi8(7));  // the last ones are all level 6
  const __m256i behind = _mm256_cmpgt_epi8(within, _mm256_shuffle_epi8(table.place, octave_index));
  const __m256i index = _mm256_sub_epi8(_mm256_add_epi8(octave_index, octave_index), behind);
  const __m256i low = _mm256_shuffle_epi8(table.low, index), high = _mm256_shuffle_epi8(table.high, index);
  const __m256i result_x = _mm256_subs_epu16(_mm256_unpacklo_epi8(low, high), rest_x);
  const __m256i result_y = _mm256_subs_epu16(_mm256_unpackhi_epi8(low, high), rest_y);
  x = _mm256_or_si256(result_x, _mm256_xor_si256(x, magnitude_x));
  y = _mm256_or_si256(result_y, _mm256_xor_si256(y, magnitude_y));
}

// Where a pair of vectors goes: `Past` the caches or not.
template <bool Past>
ASSAY_TARGET ASSAY_QUANT_INLINE void put(std::uint16_t* to, __m256i x, __m256i y) {
  __m256i* at = reinterpret_cast<__m256i*>(to);
  if constexpr (Past) {
    _mm256_stream_si256(at, x);
    _mm256_stream_si256(at + 1, y);
  } else {
    _mm256_storeu_si256(at, x);
    _mm256_storeu_si256(at + 1, y);
  }
}

template <int B, bool Past>
ASSAY_TARGET void round_rows(const Bf16Tables& tables, const Places<lanes>& places, const std::uint16_t* in,
                             std::uint16_t* out, int n) {
  const auto load = [](const std::uint16_t* from) ASSAY_TARGET ASSAY_QUANT_LAMBDA {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  };
  // The 16 bits of a block that are asked for, over and over: of one block, or of two in the two halves.
  if constexpr (B == 32) {
    const __m256i firsts = _mm256_set1_epi16(0x0100), rests = _mm256_set1_epi16(0x0302);
    const Table256 table = table_of(tables.of_mantissa[0], tables.of_mantissa[0]);
    for (int b = 0; b < n; ++b) {
      const std::uint16_t* from = in + b * B;
      prefetch(from + n * B, B);
      const __m256i place = _mm256_set1_epi32(places.first_and_rest[b]);
      const __m256i first = _mm256_shuffle_epi8(place, firsts), rest = _mm256_shuffle_epi8(place, rests);
      __m256i x = load(from), y = load(from + 16);
      by_table(x, y, table, first, first, rest, rest);
      put<Past>(out + b * B, x, y);
    }
  } else {
    const auto halves = [](short a, short b) ASSAY_TARGET ASSAY_QUANT_LAMBDA {
      return _mm256_set_m128i(_mm_set1_epi16(b), _mm_set1_epi16(a));
    };
    const __m256i firsts = halves(0x0100, 0x0504), rests = halves(0x0302, 0x0706);
    const char* all = reinterpret_cast<const char*>(tables.of_mantissa);
    for (int b = 0; b < n; b += 2) {
      prefetch(in + (n + b) * B, 2 * B);
      const Table256 table = table_of(*reinterpret_cast<const Bf16Tables::Table*>(all + places.table[b]),
                                      *reinterpret_cast<const Bf16Tables::Table*>(all + places.table[b + 1]));
      long long two;
      std::memcpy(&two, places.first_and_rest + b, sizeof two);
      const __m256i place = _mm256_set1_epi64x(two);
      const __m256i first = _mm256_shuffle_epi8(place, firsts), rest = _mm256_shuffle_epi8(place, rests);
      const __m256i one = load(in + b * B), other = load(in + (b + 1) * B);
      // The first halves of both, the second halves of both: packing then keeps a block in a half.
      __m256i x = _mm256_permute2x128_si256(one, other, 0x20), y = _mm256_permute2x128_si256(one, other, 0x31);
      by_table(x, y, table, first, first, rest, rest);
      put<Past>(out + b * B, _mm256_permute2x128_si256(x, y, 0x20), _mm256_permute2x128_si256(x, y, 0x31));
    }
  }
}

// consecutive_bf16() by tables. False, and nothing done, where they do not hold.
template <int B>
ASSAY_TARGET bool rows_by_tables(Job& job, const std::uint16_t* in, std::uint16_t* out, const std::int32_t* maxima,
                                 int n) {
  constexpr bool mxfp4 = B == 32;
  // Two blocks of 16 go together.
  if (job.spec.scope == Scope::row || n % (32 / B) != 0 || !find_tables<mxfp4>(job)) return false;
  float stored[lanes] = {};
  stored_scales<mxfp4>(job, maxima, n, stored);
  Places<lanes> places;
  if (!find_places<mxfp4>(job.tables, stored, maxima, n, places)) return false;
  if (!job.stream || !streamable(out)) {
    round_rows<B, false>(job.tables, places, in, out, n);
  } else if (reinterpret_cast<std::uintptr_t>(out) % 32 == 0) {
    round_rows<B, true>(job.tables, places, in, out, n);
  } else {
    std::uint16_t results[lanes * B];
    round_rows<B, false>(job.tables, places, in, results, n);
    stream(results, out, static_cast<std::size_t>(n) * B * 2);
  }
  return true;
}

// ---- strips ----
// Of 16 in two vectors of 32 bits.
ASSAY_TARGET ASSAY_QUANT_INLINE __m256i in_16_bits(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
}

template <bool Past>
ASSAY_TARGET void round_strip(const Job& job, const Places<strip_lanes>& places, const std::uint16_t* in,
                              std::ptrdiff_t in_stride, std::uint16_t* out, std::ptrdiff_t out_stride, int height,
                              int width) {
  alignas(32) std::uint16_t first[strip_lanes], rest[strip_lanes], line[strip_lanes];
  for (int c = 0; c < width; c += 16) {
    const auto at = [&](int i) ASSAY_TARGET ASSAY_QUANT_LAMBDA {
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(places.first_and_rest + c + i));
    };
    const __m256i firsts = in_16_bits(_mm256_and_si256(at(0), _mm256_set1_epi32(0x7fff)),
                                      _mm256_and_si256(at(8), _mm256_set1_epi32(0x7fff)));
    const __m256i rests = in_16_bits(_mm256_srli_epi32(at(0), 16), _mm256_srli_epi32(at(8), 16));
    _mm256_store_si256(reinterpret_cast<__m256i*>(first + c), firsts);
    _mm256_store_si256(reinterpret_cast<__m256i*>(rest + c), rests);
  }
  const Table256 table = table_of(job.tables.of_mantissa[0], job.tables.of_mantissa[0]);
  const auto load = [](const std::uint16_t* from) ASSAY_TARGET ASSAY_QUANT_LAMBDA {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  };
  const auto thirty_two = [&](const std::uint16_t* from, std::uint16_t* to, int c, auto past)
                              ASSAY_TARGET ASSAY_QUANT_LAMBDA {
    __m256i x = load(from), y = load(from + 16);
    by_table(x, y, table, load(first + c), load(first + c + 16), load(rest + c), load(rest + c + 16));
    put<decltype(past)::value>(to, x, y);
  };
  const bool by_lines = job.stream && !Past;
  for (int r = 0; r < height; ++r) {
    const std::uint16_t* from = in + r * in_stride;
    std::uint16_t* to = by_lines ? line : out + r * out_stride;
    prefetch(from + width, width);
    int c = 0;
    for (; c + 32 <= width; c += 32) thirty_two(from + c, to + c, c, std::bool_constant<Past>{});
    if (c < width) {
      const std::size_t bytes = static_cast<std::size_t>(width - c) * 2;
      std::uint16_t values[32] = {};
      std::memcpy(values, from + c, bytes);
      thirty_two(values, values, c, std::false_type{});
      std::memcpy(to + c, values, bytes);
    }
    if (by_lines) stream(line, out + r * out_stride, static_cast<std::size_t>(width) * 2);
  }
}

// NVFP4's levels from the eight mantissas': an E4M3 column has its own table, which no shuffle looks up.
ASSAY_TARGET void look_up_levels(const Bf16Tables& tables, const float* stored, int n, Levels<strip_lanes>& to) {
  std::int16_t* rows[7] = {to.below_half, to.below_1, to.reaches_3_halves, to.below_2,
                           to.half, to.of_3_halves, to.from_3_halves_to_2};
  __m256i of_mantissa[7];
  for (int i = 0; i < 7; ++i)
    of_mantissa[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tables.levels[i])));
  for (int c = 0; c < n; c += 16) {
    const __m256i a = _mm256_castps_si256(_mm256_loadu_ps(stored + c));
    const __m256i b = _mm256_castps_si256(_mm256_loadu_ps(stored + c + 8));
    const __m256i bits = in_16_bits(_mm256_srli_epi32(a, 20), _mm256_srli_epi32(b, 20));  // all that E4M3 has
    const __m256i nothing = _mm256_cmpeq_epi16(bits, _mm256_setzero_si256());
    const __m256i octaves = _mm256_sub_epi16(_mm256_srli_epi16(bits, 3), _mm256_set1_epi16(least_e4m3_exponent));
    const __m256i shift = _mm256_andnot_si256(nothing, _mm256_slli_epi16(octaves, 7));
    // Under a scale of 0 nothing reaches level .5.
    const __m256i bound_shift = _mm256_or_si256(shift, _mm256_and_si256(nothing, _mm256_set1_epi16(0x7fff)));
    const __m256i mantissa = _mm256_and_si256(bits, _mm256_set1_epi16(7));
    const __m256i bytes = _mm256_add_epi16(_mm256_mullo_epi16(mantissa, _mm256_set1_epi16(0x0202)),
                                           _mm256_set1_epi16(0x0100));
    const __m256i shifts[7] = {bound_shift, bound_shift, bound_shift, _mm256_setzero_si256(), shift, shift,
                               _mm256_setzero_si256()};
    for (int i = 0; i < 7; ++i)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows[i] + c),
                          _mm256_adds_epi16(_mm256_shuffle_epi8(of_mantissa[i], bytes), shifts[i]));
  }
}

// strip_bf16() by tables. False, and nothing done, where they do not hold. `maxima` has places for whole vectors.
ASSAY_TARGET bool strip_by_tables(Job& job, const std::int32_t* maxima, const std::uint16_t* in,
                                  std::ptrdiff_t in_stride, std::uint16_t* out, std::ptrdiff_t out_stride, int height,
                                  int width) {
  const bool mxfp4 = job.spec.format == Format::mxfp4;
  if (job.spec.scope == Scope::row || !(mxfp4 ? find_tables<true>(job) : find_tables<false>(job))) return false;
  float stored[strip_lanes];
  for (int c = width; c % 32 != 0; ++c) stored[c] = 1;
  if (mxfp4) {
    stored_scales<true>(job, maxima, width, stored);
    Places<strip_lanes> places;
    if (!find_places<true>(job.tables, stored, maxima, (width + 31) / 32 * 32, places)) return false;
    const bool past = job.stream && reinterpret_cast<std::uintptr_t>(out) % 32 == 0 && out_stride % 16 == 0;
    const auto round = past ? round_strip<true> : round_strip<false>;
    round(job, places, in, in_stride, out, out_stride, height, width);
  } else {
    stored_scales<false>(job, maxima, width, stored);
    Levels<strip_lanes> levels;
    look_up_levels(job.tables, stored, width, levels);
    strip_by_levels(job, levels, in, in_stride, out, out_stride, height, width);
  }
  return true;
}

}  // namespace
}  // namespace assay::quant::simd

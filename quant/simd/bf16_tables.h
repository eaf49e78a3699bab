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

// Of n <= N blocks: the table, and in 16 bits each where the count of octaves begins and what is taken off the results.
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
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.table + b), table);
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
  const __m256i firsts = _mm256_set1_epi16(0x0100), rests = _mm256_set1_epi16(0x0302);
  if constexpr (B == 32) {
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
    for (int b = 0; b < n; b += 2) {
      const int c = b + 1 < n ? b + 1 : b;  // the last one twice
      prefetch(in + (n + b) * B, 2 * B);
      const Table256 table = table_of(tables.of_mantissa[places.table[b]], tables.of_mantissa[places.table[c]]);
      const __m256i place = _mm256_set_m128i(_mm_set1_epi32(places.first_and_rest[c]),
                                             _mm_set1_epi32(places.first_and_rest[b]));
      const __m256i first = _mm256_shuffle_epi8(place, firsts), rest = _mm256_shuffle_epi8(place, rests);
      const __m256i one = load(in + b * B), other = load(in + c * B);
      // The first halves of both, the second halves of both: packing then keeps a block in a half.
      __m256i x = _mm256_permute2x128_si256(one, other, 0x20), y = _mm256_permute2x128_si256(one, other, 0x31);
      by_table(x, y, table, first, first, rest, rest);
      const __m256i of_one = _mm256_permute2x128_si256(x, y, 0x20), of_other = _mm256_permute2x128_si256(x, y, 0x31);
      if (c != b) put<Past>(out + b * B, of_one, of_other);
      else _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + b * B), of_one);
    }
  }
}

// consecutive_bf16() by tables. False, and nothing done, where they do not hold.
template <int B>
ASSAY_TARGET bool rows_by_tables(Job& job, const std::uint16_t* in, std::uint16_t* out, const std::int32_t* maxima,
                                 int n) {
  constexpr bool mxfp4 = B == 32;
  if (job.spec.scope == Scope::row || !find_tables<mxfp4>(job)) return false;
  float encode[lanes], stored[lanes] = {};
  scales<true>(job.spec.mode, job.tensor_max, {Layout::Kind::rows, nullptr}, maxima, n, encode, stored);
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

}  // namespace
}  // namespace assay::quant::simd

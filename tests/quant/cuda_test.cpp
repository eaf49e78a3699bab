// The CUDA kernels' bits against the scalar oracle's: kernels.cu on the host (tests/cuda_host), always; on a GPU where there is
// one. One list of cases for both.
#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <utility>

#include "catch.h"
#include "cuda_host/device.h"
#include "data.h"
#include "quant/cuda/loader.h"
#include "quant/hadamard.h"
#include "quant/half.h"
#include "quant/packed.h"

using namespace assay::quant;
using namespace assay::quant::test;
using cuda::Matrix;

namespace {

std::size_t bytes_of(Type type) { return type == Type::fp32 ? 4 : 2; }

// Memory with a matrix in it, its first element `offset` elements behind an aligned address.
struct Buffer {
  std::vector<std::uint8_t> bytes;
  std::size_t offset;
};

// The kernels on matrices in the host's memory: in `buffer`, in place or into `out`, a copy of `buffer` before. Vectors for
// results have the right sizes.
struct Machine {
  cuda::Device& device;

  using Memory = std::unique_ptr<void, std::function<void(void*)>>;
  Memory memory(const void* from, std::size_t bytes) {
    Memory m(device.allocate(std::max<std::size_t>(bytes, 1)), [this](void* p) { device.release(p); });
    device.upload(m.get(), from, bytes);
    return m;
  }
  float finite_max(const Matrix& matrix, const Buffer& buffer) {
    float max = -1;
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), result = memory(&max, sizeof max);
    device.finite_max(matrix, static_cast<std::uint8_t*>(in.get()) + buffer.offset * bytes_of(matrix.type),
                      static_cast<float*>(result.get()));
    device.download(&max, result.get(), sizeof max);
    return max;
  }
  void fake_quantize(const Spec& spec, const Matrix& matrix, const Buffer& buffer, Buffer& out, int axis,
                     float tensor_max, bool in_place) {
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), max = memory(&tensor_max, sizeof tensor_max),
                 to = memory(out.bytes.data(), out.bytes.size());
    const std::size_t at = buffer.offset * bytes_of(matrix.type);
    auto* target = static_cast<std::uint8_t*>(to.get()) + at;
    device.fake_quantize(spec, matrix, in_place ? target : static_cast<std::uint8_t*>(in.get()) + at, target, axis,
                         static_cast<const float*>(max.get()));
    device.download(out.bytes.data(), to.get(), out.bytes.size());
  }
  // For matrices without gaps: elements, rows behind each other, and factors.
  void operand(const Spec& spec, const Matrix& matrix, const Buffer& buffer, float tensor_max, std::vector<std::uint16_t>& out,
               std::vector<float>& factors) {
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), max = memory(&tensor_max, sizeof tensor_max),
                 to = memory(out.data(), out.size() * 2), above = memory(factors.data(), factors.size() * sizeof(float));
    device.operand(spec, matrix, static_cast<std::uint8_t*>(in.get()) + buffer.offset * bytes_of(matrix.type), to.get(),
                   static_cast<float*>(above.get()), static_cast<const float*>(max.get()));
    device.download(out.data(), to.get(), out.size() * 2);
    device.download(factors.data(), above.get(), factors.size() * sizeof(float));
  }
  void pack(const Spec& spec, const Matrix& matrix, const Buffer& buffer, int axis, float tensor_max,
            std::vector<std::uint8_t>& codes, std::vector<std::uint8_t>& scales, std::vector<float>& maxima) {
    const auto bytes = maxima.size() * sizeof(float);
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), max = memory(&tensor_max, sizeof tensor_max),
                 to_codes = memory(codes.data(), codes.size()), to_scales = memory(scales.data(), scales.size()),
                 to_maxima = memory(maxima.data(), bytes);
    device.pack(spec, matrix, static_cast<std::uint8_t*>(in.get()) + buffer.offset * bytes_of(matrix.type), axis,
                static_cast<std::uint8_t*>(to_codes.get()), static_cast<std::uint8_t*>(to_scales.get()),
                static_cast<float*>(to_maxima.get()), static_cast<const float*>(max.get()));
    device.download(codes.data(), to_codes.get(), codes.size());
    device.download(scales.data(), to_scales.get(), scales.size());
    device.download(maxima.data(), to_maxima.get(), bytes);
  }
  ErrorStats errors(const Matrix& matrix, const Buffer& x, const Buffer& dq, const std::vector<std::uint8_t>& codes,
                    double damping) {
    const Memory in = memory(x.bytes.data(), x.bytes.size()), out = memory(dq.bytes.data(), dq.bytes.size()),
                 packed = memory(codes.data(), codes.size());
    const std::size_t at = x.offset * bytes_of(matrix.type);
    return device.errors(matrix, static_cast<std::uint8_t*>(in.get()) + at, static_cast<std::uint8_t*>(out.get()) + at,
                         codes.empty() ? nullptr : static_cast<const std::uint8_t*>(packed.get()), damping);
  }
  void hadamard(const Matrix& matrix, const Buffer& buffer, Buffer& out, std::uint16_t signs, bool inverse) {
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), to = memory(out.bytes.data(), out.bytes.size());
    device.hadamard(matrix, static_cast<std::uint8_t*>(in.get()) + buffer.offset * 4,
                    static_cast<std::uint8_t*>(to.get()) + buffer.offset * 4, signs, inverse);
    device.download(out.bytes.data(), to.get(), out.bytes.size());
  }
};

Buffer buffer_of(const std::vector<float>& x, Type type, const Matrix& matrix, std::size_t offset) {
  Buffer buffer{{}, offset};
  // Filled with NaN, so that whatever is read or written beside the matrix shows.
  buffer.bytes.assign((offset + static_cast<std::size_t>(matrix.rows * matrix.stride) + 8) * bytes_of(type), 0xff);
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.cols; ++c) {
      const float value = x[static_cast<std::size_t>(r * matrix.cols + c)];
      const std::size_t at = (offset + static_cast<std::size_t>(r * matrix.stride + c)) * bytes_of(type);
      const std::uint16_t narrow = type == Type::bf16 ? block::to_bf16(value) : block::to_fp16(value);
      if (type == Type::fp32) std::memcpy(&buffer.bytes[at], &value, 4);
      else std::memcpy(&buffer.bytes[at], &narrow, 2);
    }
  }
  return buffer;
}

struct Form {
  std::int64_t gap = 0;    // between rows
  std::size_t offset = 0;  // of the first element
  bool in_place = false;
};

// pack()'s codes, scales and maxima against those that the oracle gives block by block.
void compare_packed(Machine& machine, const Spec& spec, float max, const Matrix& matrix, const Buffer& in, int axis) {
  const std::int64_t rows = matrix.rows, cols = matrix.cols;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(code_count(rows, cols)));
  std::vector<std::uint8_t> scales(static_cast<std::size_t>(scale_count(spec, rows, cols, axis)));
  std::vector<float> maxima(static_cast<std::size_t>(spec.scope == Scope::row ? rows : 0));
  auto got_codes = codes, got_scales = scales;
  auto got_maxima = maxima;
  std::fill(got_codes.begin(), got_codes.end(), std::uint8_t{0xee});
  const ConstView from{in.bytes.data() + in.offset * bytes_of(matrix.type), matrix.type, rows, cols, matrix.stride, 1};
  if (rows > 0 && cols > 0)
    pack_piece(spec, max, from, axis, matrix.first_row, codes.data(), scales.data(),
               spec.scope == Scope::row ? maxima.data() : nullptr, Path::reference);
  machine.pack(spec, matrix, in, axis, max, got_codes, got_scales, got_maxima);
  CHECK(got_codes == codes);
  CHECK(got_scales == scales);
  CHECK(got_maxima == maxima);
}

// An exact product's operand against codes and scales: what is packed, without what stands above the block scales.
void compare_operand(Machine& machine, const Spec& spec, float max, const Matrix& matrix, const Buffer& in) {
  const std::int64_t rows = matrix.rows, cols = matrix.cols;
  if (rows * cols == 0 || matrix.stride != cols || spec.tiles) return;
  const auto n = static_cast<std::size_t>(rows * cols), lines = static_cast<std::size_t>(spec.scope == Scope::row ? rows : 1);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(code_count(rows, cols)));
  std::vector<std::uint8_t> scales(static_cast<std::size_t>(scale_count(spec, rows, cols, 1)));
  std::vector<float> maxima(lines, max), values(n), factors(lines, -1.0f);
  std::vector<std::uint16_t> elements(n, 0xeeee);
  pack_piece(spec, max, {in.bytes.data() + in.offset * bytes_of(matrix.type), matrix.type, rows, cols, cols, 1}, 1, matrix.first_row,
             codes.data(), scales.data(), spec.scope == Scope::row ? maxima.data() : nullptr, Path::reference);
  dequantize_divided(spec.format, 1.0f, codes.data(), scales.data(), rows, cols, 1, values.data(), Path::reference);
  machine.operand(spec, matrix, in, max, elements, factors);
  std::size_t different = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const float got = std::bit_cast<float>(static_cast<std::uint32_t>(elements[i]) << 16);
    different += std::bit_cast<std::uint32_t>(got) != std::bit_cast<std::uint32_t>(values[i]) && !(got != got && values[i] != values[i]);
  }
  CHECK(different == 0);
  for (std::size_t r = 0; r < lines; ++r) CHECK(factors[r] == tensor_factor(spec, maxima[r]));
}

// The figures of `out` against `in`: counts exactly, sums to what their order changes.
void compare_errors(Machine& machine, const Matrix& matrix, const Buffer& in, const Buffer& out,
                    const std::vector<std::uint8_t>& codes) {
  const auto widened = [&](const Buffer& buffer) {
    std::vector<float> values;
    for (std::int64_t r = 0; r < matrix.rows; ++r)
      for (std::int64_t c = 0; c < matrix.cols; ++c)
        values.push_back(element({buffer.bytes.data() + buffer.offset * bytes_of(matrix.type), matrix.type, matrix.rows,
                                  matrix.cols, matrix.stride, 1}, r, c));
    return values;
  };
  ErrorStats wanted;
  wanted.damping = 0.01;
  const auto x = widened(in), dq = widened(out);
  accumulate(wanted, x.data(), dq.data(), static_cast<std::int64_t>(x.size()));
  for (const std::uint8_t byte : codes) wanted.saturated += ((byte & 7) == 7) + ((byte >> 4 & 7) == 7);
  const ErrorStats got = machine.errors(matrix, in, out, codes, 0.01);
  CHECK(got.count == wanted.count);
  CHECK(got.dead == wanted.dead);
  CHECK(got.saturated == wanted.saturated);
  CHECK(got.non_finite == wanted.non_finite);
  const auto near = [](double a, double b) { return a == b || std::abs(a - b) <= 1e-12 * std::abs(b); };
  CHECK(near(got.sum_x2, wanted.sum_x2));
  CHECK(near(got.sum_dq2, wanted.sum_dq2));
  CHECK(near(got.sum_err2, wanted.sum_err2));
  CHECK(near(got.sum_abs, wanted.sum_abs));
  CHECK(near(got.sum_abs_err, wanted.sum_abs_err));
  CHECK(near(got.sum_damped, wanted.sum_damped));
  CHECK(std::abs(got.sum_x_dq - wanted.sum_x_dq) <= 1e-12 * (wanted.sum_x2 + wanted.sum_dq2));
}

// One call's result and its neighbourhood, all bytes of it, against the oracle's.
void compare(Machine& machine, const Spec& spec, const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
             const Form& form = {}, std::int64_t first_row = 0) {
  for (const Type type : {Type::fp32, Type::bf16, Type::fp16}) {
    const Matrix matrix{type, rows, cols, cols + form.gap, first_row};
    const Buffer in = buffer_of(x, type, matrix, form.offset);
    const std::size_t at = form.offset * bytes_of(type);
    const ConstView from{in.bytes.data() + at, type, rows, cols, matrix.stride, 1};
    const float max = machine.finite_max(matrix, in);
    CAPTURE(std::string(name(type)), rows, cols, form.gap, form.offset, form.in_place);
    CHECK(max == finite_max(from));
    for (int axis : {1, 0}) {
      if (!takes_axis(spec, axis)) continue;
      CAPTURE(axis);
      Buffer expected = in, out = in;
      const View to{expected.bytes.data() + at, type, rows, cols, matrix.stride, 1};
      fake_quantize_piece(spec, max, from, to, axis, first_row, nullptr, Path::reference);
      machine.fake_quantize(spec, matrix, in, out, axis, max, form.in_place);
      CHECK(out.bytes == expected.bytes);
      if (form.in_place) continue;
      compare_packed(machine, spec, max, matrix, in, axis);
      if (axis == 1) compare_operand(machine, spec, max, matrix, in);
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(code_count(rows, cols)));
      std::vector<std::uint8_t> scales(static_cast<std::size_t>(scale_count(spec, rows, cols, axis)));
      std::vector<float> maxima(static_cast<std::size_t>(rows));
      if (rows > 0 && cols > 0)
        pack_piece(spec, max, from, axis, first_row, codes.data(), scales.data(),
                   spec.scope == Scope::row ? maxima.data() : nullptr, Path::reference);
      compare_errors(machine, matrix, in, expected, axis == 1 ? codes : std::vector<std::uint8_t>{});
    }
  }
}

struct Shape {
  std::int64_t rows, cols;
};
// Whole and partial blocks of both formats; rows for a warp and for a block of threads; nothing at all.
constexpr Shape shapes[] = {{1, 1},   {1, 15},   {1, 16},  {1, 17},  {3, 31},   {2, 32},  {5, 33},   {7, 96},
                            {16, 64}, {17, 65},  {33, 48}, {32, 63}, {2, 1040}, {2, 2079}, {3, 4112}, {40, 1},
                            {0, 8},   {8, 0}};

std::vector<Named> more_specs() {
  std::vector<Named> specs = all_specs();
  const auto add = [&](const char* name, Spec spec) { specs.push_back({name, spec}); };
  for (Mode mode : {Mode::te, Mode::te46, Mode::torchao, Mode::ct}) {
    add("static", {.mode = mode, .scope = Scope::fixed, .static_max = 3});
  }
  Spec random{.rounding = Rounding::stochastic, .seed = 0x123456789abcdefu};
  add("te, stochastic", random);
  random.scope = Scope::row;
  add("te, scope row, stochastic", random);
  random.scope = Scope::tensor;
  random.tiles = true;
  add("te, tiles, stochastic", random);
  random.tiles = false;
  random.mode = Mode::ct;
  add("ct, stochastic", random);
  random.format = Format::mxfp4;
  random.mode = Mode::floor;
  add("floor, stochastic", random);
  return specs;
}

// Tiles whose candidates' errors differ by no more than what fp32 rounds off: which is chosen hangs on the order in which the
// rows are added.
std::vector<float> undecided_tiles(std::size_t tiles) {
  using Rule = block::FourOverSix<false>;
  const float am = 6;
  const Rule rule(am);
  struct Row {
    std::vector<float> x;
    float errors[2];
    double difference() const { return double{errors[0]} - errors[1]; }
  };
  const auto row_of = [&](std::vector<float> x) {
    for (float& v : x) v = std::clamp(v, -am, am);
    const auto error = [&](const block::Scale& scale) { return block::error_sum(rule, scale, x.data(), 16, 1); };
    const float first = error(rule(am)), second = error(rule.second(am));
    return Row{std::move(x), {first, second}};
  };
  std::vector<Row> rows;
  for (std::uint32_t i = 0; i < 2000; ++i) rows.push_back(row_of(normal(16, i, 2)));
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.difference() < b.difference(); });
  std::mt19937 random(1);
  std::vector<float> x;
  while (x.size() < tiles * 256) {
    std::vector<const Row*> tile;
    const Row with_maximum = row_of(std::vector<float>(16, am));
    tile.push_back(&with_maximum);
    double sum = with_maximum.difference();
    while (tile.size() < 14) {
      tile.push_back(&rows[random() % rows.size()]);
      sum += tile.back()->difference();
    }
    // The two rows that come closest to making it up.
    std::pair best{rows.begin(), std::prev(rows.end())};
    const auto left = [&](const auto& pair) { return sum + pair.first->difference() + pair.second->difference(); };
    for (auto at = best; at.first < at.second; left(at) < 0 ? static_cast<void>(++at.first) : static_cast<void>(--at.second))
      if (std::abs(left(at)) < std::abs(left(best))) best = at;
    tile.push_back(&*best.first);
    tile.push_back(&*best.second);
    float trees[2][16], others[2] = {};
    for (int c = 0; c < 2; ++c) {
      for (std::size_t r = 0; r < 16; ++r) trees[c][r] = tile[r]->errors[c];
      float sums[16];
      for (int r = 0; r < 16; ++r) sums[r] = trees[c][r];
      for (int half = 1; half < 16; half *= 2)
        for (int r = 0; r < 16; r += 2 * half) sums[r] += sums[r + half];
      others[c] = sums[0];
    }
    const float first = block::tile_sum(trees[0]), second = block::tile_sum(trees[1]);
    if ((second < first) == (others[1] < others[0])) continue;
    for (const Row* row : tile) x.insert(x.end(), row->x.begin(), row->x.end());
  }
  return x;
}

void whole_list(Machine& machine) {
  for (const Named& named : more_specs()) {
    CAPTURE(named.name);
    std::uint32_t seed = 1;
    for (const Shape& shape : shapes) {
      const std::int64_t n = shape.rows * shape.cols;
      compare(machine, named.spec, normal(n, ++seed), shape.rows, shape.cols);
      compare(machine, named.spec, any_bits(n, ++seed), shape.rows, shape.cols);
      compare(machine, named.spec, nasty(n, ++seed), shape.rows, shape.cols);
    }
    // Rows apart, or beginning where no 16-byte load may; whole blocks and partial ones; in place.
    for (const Form& form : {Form{3, 0}, Form{0, 1}, Form{16, 4}, Form{5, 7, true}, Form{0, 0, true}}) {
      for (const std::int64_t cols : {64, 77}) compare(machine, named.spec, nasty(35 * cols, ++seed), 35, cols, form);
    }
    if (named.spec.tiles && named.spec.mode == Mode::te46_mae) compare(machine, named.spec, undecided_tiles(8), 8 * 16, 16);
    // A piece of a larger matrix: what is random goes by the place in that.
    compare(machine, named.spec, normal(32 * 48, ++seed), 32, 48, {}, 64);
    for (const NonFinite policy : {NonFinite::propagate, NonFinite::hw_saturate}) {
      Spec spec = named.spec;
      spec.non_finite = policy;
      compare(machine, spec, any_bits(48 * 50, ++seed, true), 48, 50);
      auto few = normal(20 * 1040, ++seed);
      few[70] = few[5000] = std::numeric_limits<float>::quiet_NaN();
      few[13000] = -std::numeric_limits<float>::infinity();
      compare(machine, spec, few, 20, 1040);
    }
  }
}

// Against quant/hadamard.h's own loop, rows apart and not, in place and not.
void hadamard_list(Machine& machine) {
  std::uint32_t seed = 7;
  for (const Shape& shape : {Shape{1, 16}, Shape{5, 48}, Shape{33, 160}, Shape{0, 16}, Shape{3, 0}})
    for (const Form& form : {Form{}, Form{3, 1}, Form{16, 4, true}})
      for (const bool inverse : {false, true}) {
        const Matrix matrix{Type::fp32, shape.rows, shape.cols, shape.cols + form.gap, 0};
        const auto x = normal(shape.rows * shape.cols, ++seed);
        const Buffer in = buffer_of(x, Type::fp32, matrix, form.offset);
        const auto signs = hadamard_signs(seed);
        auto wanted = x;
        (inverse ? inverse_hadamard16 : hadamard16)(x.data(), wanted.data(), shape.rows, shape.cols, signs);
        Buffer out = in;
        machine.hadamard(matrix, form.in_place ? out : in, out, signs, inverse);
        CHECK(out.bytes == buffer_of(wanted, Type::fp32, matrix, form.offset).bytes);
      }
  Buffer none{{}, 0};
  CHECK_THROWS_WITH(machine.hadamard({Type::fp32, 1, 17, 17, 0}, none, none, 0, false), Catch::Contains("multiple of 16"));
}

// The maximum is found wherever it stands, with more pieces of 16 bytes than a processor has threads.
void maximum_anywhere(Machine& machine) {
  const std::int64_t pieces = 5000;
  const Matrix matrix{Type::fp32, 1, 4 * pieces, 4 * pieces, 0};
  const std::vector<float> x(static_cast<std::size_t>(4 * pieces), -1.0f);
  for (const std::int64_t piece : {0, 1, 31, 32, 255, 256, 2046, 2047, 2048, 2049, 2304, 4095, 4096, 4097, 4999}) {
    CAPTURE(piece);
    auto with = x;
    with[static_cast<std::size_t>(4 * piece + piece % 4)] = -2;
    CHECK(machine.finite_max(matrix, buffer_of(with, Type::fp32, matrix, 0)) == 2);
  }
}

// What the CPU says of a spec, a device says.
void refusals(Machine& machine) {
  const Matrix matrix{Type::fp32, 2, 32, 32, 0};
  const Buffer in = buffer_of(normal(64, 1), Type::fp32, matrix, 0);
  Buffer out = in;
  const Spec wrong{.format = Format::mxfp4, .mode = Mode::te};
  CHECK_THROWS_WITH(machine.fake_quantize(wrong, matrix, in, out, 1, 1, false), Catch::Contains("other format"));
}

}  // namespace

TEST_CASE("kernels.cu on the host gives the oracle's bits") {
  Machine host{cuda::host_device()};
  // The host waits for what it reads, and gives back what it takes.
  assay::cuda_host::defer(true);
  whole_list(host);
  hadamard_list(host);
  maximum_anywhere(host);
  refusals(host);
  assay::cuda_host::defer(false);
  CHECK(assay::cuda_host::allocations() == 0);
}

TEST_CASE("the kernels on a GPU give the oracle's bits") {
  const cuda::Opened& opened = cuda::open_device();
  if (!opened.device) {
    CHECK_FALSE(opened.missing.empty());
    assay::test::report_skipped("CUDA kernels against the oracle", opened.missing);
    return;
  }
  Machine gpu{*opened.device};
  whole_list(gpu);
  hadamard_list(gpu);
  maximum_anywhere(gpu);
  refusals(gpu);
  for (const Named& named : all_specs()) compare(gpu, named.spec, nasty(1000 * 4112, 99), 1000, 4112);
}

TEST_CASE("without a device, one sentence says what is missing") {
  const cuda::Opened& opened = cuda::open_device();
  CHECK((opened.device == nullptr) == !opened.missing.empty());
  CHECK(opened.missing.find('\n') == std::string::npos);
  CHECK(&cuda::open_device() == &opened);
}

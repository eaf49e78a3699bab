// The CUDA kernels' bits against the scalar oracle's: the kernels' bodies thread after thread on the host, always; the
// kernels themselves where there is a GPU. One list of cases for both.
#include <algorithm>
#include <array>
#include <functional>
#include <memory>

#include "catch.h"
#include "data.h"
#include "quant/cuda/dispatch.h"
#include "quant/cuda/loader.h"
#include "quant/half.h"

using namespace assay::quant;
using namespace assay::quant::test;
using cuda::Job;
using cuda::Matrix;

namespace {

// What dispatch.h asks for, done by loops. Blocks of threads may run in any order, so they go backwards here.
struct HostThreads {
  template <Type T, int B>
  void rows(const Job& job, int group) const {
    const std::int64_t threads = cuda::RowBlocks<T, B>::threads(job, group);
    for (std::int64_t last = threads; last > 0; last -= std::max(group, 1)) {
      const std::int64_t first = last - std::max(group, 1);
      std::int32_t m = 0;
      if (group) {
        for (std::int64_t t = first; t < last; ++t) m = std::max(m, cuda::RowBlocks<T, B>::largest(job, t, group));
      }
      for (std::int64_t t = first; t < last; ++t) cuda::RowBlocks<T, B>::run(job, t, group, m);
    }
  }
  template <Type T, int B>
  void columns(const Job& job) const {
    for (std::int64_t t = cuda::ColumnBlocks<T, B>::threads(job); t-- > 0;) cuda::ColumnBlocks<T, B>::run(job, t);
  }
  template <Type T>
  void tiles(const Job& job) const {
    // To whole blocks of threads, as a launch does it.
    constexpr int block = cuda::block_threads;
    const std::int64_t threads = cuda::blocks_in(cuda::TileRow<T>::threads(job), block) * block;
    for (std::int64_t first = threads - 16; first >= 0; first -= 16) {
      cuda::TileRow<T> lanes[16];
      typename cuda::TileRow<T>::Found tile{0, false};
      for (int i = 0; i < 16; ++i) {
        const auto found = lanes[i].load(job, first + i);
        tile.largest = std::max(tile.largest, found.largest);
        tile.strays |= found.strays;
      }
      float sums[2][16];
      for (int i = 0; i < 16; ++i) {
        const auto errors = lanes[i].errors(job, tile);
        sums[0][i] = errors.first;
        sums[1][i] = errors.second;
      }
      const float of_first = block::tile_sum(sums[0]), of_second = block::tile_sum(sums[1]);
      for (auto& lane : lanes) lane.finish(job, tile, {of_first, of_second});
    }
  }
  template <Type T>
  void finite_max(const Job& job, std::int64_t threads, std::int32_t* max) const {
    for (std::int64_t t = 0; t < threads; ++t) *max = std::max(*max, cuda::part_of_finite_max<T>(job, t, threads));
  }
};

std::size_t bytes_of(Type type) { return type == Type::fp32 ? 4 : 2; }

// Memory with a matrix in it, its first element `offset` elements behind an aligned address.
struct Buffer {
  std::vector<std::uint8_t> bytes;
  std::size_t offset;
};

// Where the kernels run: they quantize the matrix in `buffer`, in place or into `out`, a copy of `buffer` before.
struct Machine {
  virtual ~Machine() = default;
  virtual float finite_max(const Matrix& matrix, const Buffer& buffer) = 0;
  virtual void fake_quantize(const Spec& spec, const Matrix& matrix, const Buffer& buffer, Buffer& out, int axis,
                             float tensor_max, bool in_place) = 0;
  // Into the vectors, which have the right sizes.
  virtual void pack(const Spec& spec, const Matrix& matrix, const Buffer& buffer, float tensor_max,
                    std::vector<std::uint8_t>& codes, std::vector<std::uint8_t>& scales, std::vector<float>& maxima) = 0;
};

struct Host : Machine {
  float finite_max(const Matrix& matrix, const Buffer& buffer) override {
    std::int32_t bits = 0;
    const void* x = buffer.bytes.data() + buffer.offset * bytes_of(matrix.type);
    cuda::dispatch_finite_max(matrix, x, &bits, 96, HostThreads{});
    return std::bit_cast<float>(bits);
  }
  void fake_quantize(const Spec& spec, const Matrix& matrix, const Buffer& buffer, Buffer& out, int axis,
                     float tensor_max, bool in_place) override {
    const std::size_t at = buffer.offset * bytes_of(matrix.type);
    void* to = out.bytes.data() + at;
    const void* from = in_place ? to : buffer.bytes.data() + at;
    cuda::dispatch_fake_quantize(spec, matrix, from, to, axis, &tensor_max, HostThreads{});
  }
  void pack(const Spec& spec, const Matrix& matrix, const Buffer& buffer, float tensor_max,
            std::vector<std::uint8_t>& codes, std::vector<std::uint8_t>& scales, std::vector<float>& maxima) override {
    cuda::dispatch_pack(spec, matrix, buffer.bytes.data() + buffer.offset * bytes_of(matrix.type), codes.data(),
                        scales.data(), maxima.data(), &tensor_max, HostThreads{});
  }
};

struct Gpu : Machine {
  cuda::Device& device;
  explicit Gpu(cuda::Device& d) : device(d) {}

  using Memory = std::unique_ptr<void, std::function<void(void*)>>;
  Memory memory(const void* from, std::size_t bytes) {
    Memory m(device.allocate(std::max<std::size_t>(bytes, 1)), [this](void* p) { device.release(p); });
    device.upload(m.get(), from, bytes);
    return m;
  }
  float finite_max(const Matrix& matrix, const Buffer& buffer) override {
    float max = -1;
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), result = memory(&max, sizeof max);
    device.finite_max(matrix, static_cast<std::uint8_t*>(in.get()) + buffer.offset * bytes_of(matrix.type),
                      static_cast<float*>(result.get()));
    device.download(&max, result.get(), sizeof max);
    return max;
  }
  void fake_quantize(const Spec& spec, const Matrix& matrix, const Buffer& buffer, Buffer& out, int axis,
                     float tensor_max, bool in_place) override {
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), max = memory(&tensor_max, sizeof tensor_max),
                 to = memory(out.bytes.data(), out.bytes.size());
    const std::size_t at = buffer.offset * bytes_of(matrix.type);
    auto* target = static_cast<std::uint8_t*>(to.get()) + at;
    device.fake_quantize(spec, matrix, in_place ? target : static_cast<std::uint8_t*>(in.get()) + at, target, axis,
                         static_cast<const float*>(max.get()));
    device.download(out.bytes.data(), to.get(), out.bytes.size());
  }
  void pack(const Spec& spec, const Matrix& matrix, const Buffer& buffer, float tensor_max,
            std::vector<std::uint8_t>& codes, std::vector<std::uint8_t>& scales, std::vector<float>& maxima) override {
    const auto bytes = maxima.size() * sizeof(float);
    const Memory in = memory(buffer.bytes.data(), buffer.bytes.size()), max = memory(&tensor_max, sizeof tensor_max),
                 to_codes = memory(codes.data(), codes.size()), to_scales = memory(scales.data(), scales.size()),
                 to_maxima = memory(maxima.data(), bytes);
    device.pack(spec, matrix, static_cast<std::uint8_t*>(in.get()) + buffer.offset * bytes_of(matrix.type),
                static_cast<std::uint8_t*>(to_codes.get()), static_cast<std::uint8_t*>(to_scales.get()),
                static_cast<float*>(to_maxima.get()), static_cast<const float*>(max.get()));
    device.download(codes.data(), to_codes.get(), codes.size());
    device.download(scales.data(), to_scales.get(), scales.size());
    device.download(maxima.data(), to_maxima.get(), bytes);
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
void compare_packed(Machine& machine, const Spec& spec, float max, const Matrix& matrix, const Buffer& in) {
  const std::int64_t rows = matrix.rows, cols = matrix.cols, code_stride = (cols + 1) / 2, block = spec.block(),
                     blocks = cuda::blocks_in(cols, static_cast<int>(block));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * code_stride));
  std::vector<std::uint8_t> scales(static_cast<std::size_t>(rows * blocks));
  std::vector<float> maxima(static_cast<std::size_t>(spec.scope == Scope::row ? rows : 0));
  auto got_codes = codes, got_scales = scales;
  auto got_maxima = maxima;
  std::fill(got_codes.begin(), got_codes.end(), std::uint8_t{0xee});

  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t c = 0; c < cols; ++c) {
      const std::size_t at = (in.offset + static_cast<std::size_t>(r * matrix.stride + c)) * bytes_of(matrix.type);
      std::uint16_t narrow = 0;
      std::memcpy(&narrow, &in.bytes[at], 2);
      float& value = row[static_cast<std::size_t>(c)];
      if (matrix.type == Type::fp32) std::memcpy(&value, &in.bytes[at], 4);
      else value = matrix.type == Type::bf16 ? block::from_bf16(narrow) : block::from_fp16(narrow);
    }
    float a = spec.scope == Scope::fixed ? spec.static_max : max;
    if (spec.scope == Scope::row) maxima[static_cast<std::size_t>(r)] = a = finite_max(row.data(), cols);
    for (std::int64_t c = 0; c < cols; c += block) {
      std::array<float, 32> values;
      std::array<std::uint8_t, 32> single{};
      const BlockShape shape{.width = static_cast<int>(std::min(block, cols - c)),
                             .index = (matrix.first_row + r) * cols + c};
      const BlockResult result = reference_block(spec, a, row.data() + c, values.data(), shape, single.data());
      const bool nvfp4 = spec.format == Format::nvfp4;
      scales[static_cast<std::size_t>(r * blocks + c / block)] =
          result.poisoned ? (nvfp4 ? 0x7f : 0xff) : nvfp4 ? encode_e4m3(result.stored) : encode_e8m0(result.stored);
      for (std::size_t i = 0; i < static_cast<std::size_t>(shape.width); ++i) {
        auto& byte = codes[static_cast<std::size_t>(r * code_stride + c / 2) + i / 2];
        byte |= static_cast<std::uint8_t>(single[i] << (i % 2 * 4));
      }
    }
  }
  machine.pack(spec, matrix, in, max, got_codes, got_scales, got_maxima);
  CHECK(got_codes == codes);
  CHECK(got_scales == scales);
  CHECK(got_maxima == maxima);
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
    }
    if (!spec.tiles && !form.in_place) compare_packed(machine, spec, max, matrix, in);
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

}  // namespace

TEST_CASE("the kernels' bodies, thread by thread on the host, give the oracle's bits") {
  Host host;
  whole_list(host);
}

TEST_CASE("the kernels on a GPU give the oracle's bits") {
  const cuda::Opened& opened = cuda::open_device();
  if (!opened.device) {
    CHECK_FALSE(opened.missing.empty());
    assay::test::report_skipped("CUDA kernels against the oracle", opened.missing);
    return;
  }
  Gpu gpu(*opened.device);
  whole_list(gpu);
  for (const Named& named : all_specs()) compare(gpu, named.spec, nasty(1000 * 4112, 99), 1000, 4112);
}

TEST_CASE("without a device, one sentence says what is missing") {
  const cuda::Opened& opened = cuda::open_device();
  CHECK((opened.device == nullptr) == !opened.missing.empty());
  CHECK(opened.missing.find('\n') == std::string::npos);
  CHECK(&cuda::open_device() == &opened);
}

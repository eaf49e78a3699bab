// Every path x mode x axis x type x size of fake_quantize beside a memory copy of the same bytes.
//
//   fake_quantize_bench [--reference] [Google Benchmark's options]
//
// Names are FORMAT/MODE/AXIS/TYPE/SIZE/PATH/THREADS, for --benchmark_filter. --reference adds the scalar
// oracle, in cache only.
//
// The same bytes are what the algorithm must read and write: the input, once more where a tensor maximum is taken first,
// and the output (te in fp32: 12 bytes an element, MXFP4 8). The copy goes from the same input to the same output with
// the same threads, in turns with the quantizer, call by call; it is the faster of memcpy and of a loop of streaming
// stores (which do not read what they overwrite). `of copy` is the copy's time for those bytes over the quantizer's.
// The table at the end takes each one's fastest call, because what else a machine does only ever adds time, and beside it
// the median over the pairs.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "quant/fake_quantize.h"

namespace {

using namespace assay::quant;

struct Size {
  const char* name;
  std::int64_t rows, cols;
};
// In cache: input and output in fp32 are half of a 512 KiB second level.
constexpr Size sizes[]{{"in-cache", 64, 512}, {"out-of-cache", 4096, 4096}};

struct Case {
  Spec spec;
  int axis;
  Type type;
  Size size;
  Path path;
  int threads;

  std::int64_t elements() const { return size.rows * size.cols; }
  std::int64_t element_size() const { return type == Type::fp32 ? 4 : 2; }
  double bytes() const {
    return static_cast<double>(elements() * element_size() * (needs_tensor_max(spec) ? 3 : 2));
  }
  std::string name() const {
    const auto word = [](auto value) { return std::string(assay::quant::name(value)) + "/"; };
    return word(spec.format) + word(spec.mode) + (axis == 1 ? "rows/" : "columns/") + word(type) + size.name + "/" +
           word(path) + std::to_string(threads);
  }
};

// Seconds of each call and of the copies in between.
struct Times {
  Case what;
  std::vector<double> ours, memcpy, streaming;
  double bytes_copied() const { return static_cast<double>(2 * what.elements() * what.element_size()); }
};

double fastest(const std::vector<double>& seconds) { return *std::min_element(seconds.begin(), seconds.end()); }
double median(std::vector<double> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}
double of_copy(const Times& t, double ours, double copy) { return copy / t.bytes_copied() * t.what.bytes() / ours; }
double of_copy(const Times& t) { return of_copy(t, fastest(t.ours), std::min(fastest(t.memcpy), fastest(t.streaming))); }
double median_of_copy(const Times& t) {
  std::vector<double> pairs;
  for (std::size_t i = 0; i < t.ours.size(); ++i) {
    pairs.push_back(of_copy(t, t.ours[i], std::min(t.memcpy[i], t.streaming[i])));
  }
  return median(pairs);
}

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  benchmark::ClobberMemory();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// 64-byte aligned, as tensors are.
struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;
Memory memory(std::int64_t bytes) { return Memory(std::aligned_alloc(64, static_cast<std::size_t>(bytes))); }

// N(0, 1) in a type. A million numbers, over and over.
Memory normal(Type type, std::int64_t n) {
  std::mt19937 generator(1);
  std::normal_distribution<float> distribution;
  std::vector<float> pattern(1 << 20);
  for (float& v : pattern) v = distribution(generator);
  Memory all = memory(n * (type == Type::fp32 ? 4 : 2));
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = pattern[static_cast<std::size_t>(i) % pattern.size()];
    if (type == Type::fp32) static_cast<float*>(all.get())[i] = v;
    else static_cast<std::uint16_t*>(all.get())[i] = type == Type::bf16 ? encode_bf16(v) : encode_fp16(v);
  }
  return all;
}

void stream(const char* from, char* to, std::int64_t bytes) {
#if defined(__SSE2__)
  for (std::int64_t i = 0; i < bytes; i += 64) {
    for (int j = 0; j < 64; j += 16) {
      const __m128i v = _mm_load_si128(reinterpret_cast<const __m128i*>(from + i + j));
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + j), v);
    }
  }
  _mm_sfence();
#else
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
#endif
}

// f(first byte, bytes) on every thread's part, whole cache lines each.
template <class F>
void shared_out(std::int64_t bytes, int threads, F&& f) {
  if (threads == 1) return f(std::int64_t{0}, bytes);
  const std::int64_t part = (bytes / threads + 63) / 64 * 64;
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t first = part * omp_get_thread_num(), end = std::min(bytes, first + part);
    if (first < end) f(first, end - first);
  }
}

// A piece of whole blocks for each thread, the maximum's pass included.
void quantize(const Case& c, const void* in, void* out) {
  const auto [type, rows, cols] = std::tuple{c.type, c.size.rows, c.size.cols};
  const std::int64_t part = rows / c.threads, bytes = c.element_size();
  const auto piece = [&](std::int64_t first) {
    const std::int64_t at = first * cols * bytes;
    return std::pair{ConstView{static_cast<const char*>(in) + at, type, part, cols, cols, 1},
                     View{static_cast<char*>(out) + at, type, part, cols, cols, 1}};
  };
  float most = 0;
  if (c.threads == 1) {
    const auto [x, y] = piece(0);
    if (needs_tensor_max(c.spec)) most = finite_max(x);
    return fake_quantize_piece(c.spec, most, x, y, c.axis, 0, nullptr, c.path);
  }
#pragma omp parallel num_threads(c.threads) reduction(max : most)
  if (needs_tensor_max(c.spec)) most = finite_max(piece(part * omp_get_thread_num()).first);
#pragma omp parallel num_threads(c.threads)
  {
    const std::int64_t first = part * omp_get_thread_num();
    const auto [x, y] = piece(first);
    fake_quantize_piece(c.spec, most, x, y, c.axis, first, nullptr, c.path);
  }
}

void run(benchmark::State& state, Times& times, const void* in, void* out) {
  const Case& c = times.what;
  const std::int64_t bytes = c.elements() * c.element_size();
  const char* from = static_cast<const char*>(in);
  char* to = static_cast<char*>(out);
  Times own{c, {}, {}, {}};
  for (auto _ : state) {
    const double t = seconds([&] { quantize(c, in, out); });
    state.SetIterationTime(t);
    own.ours.push_back(t);
    own.memcpy.push_back(seconds([&] {
      shared_out(bytes, c.threads, [&](std::int64_t first, std::int64_t n) {
        std::memcpy(to + first, from + first, static_cast<std::size_t>(n));
      });
    }));
    own.streaming.push_back(seconds([&] {
      shared_out(bytes, c.threads, [&](std::int64_t first, std::int64_t n) { stream(from + first, to + first, n); });
    }));
  }
  state.SetItemsProcessed(state.iterations() * c.elements());
  state.counters["of copy"] = of_copy(own);
  const auto append = [](std::vector<double>& a, const std::vector<double>& b) { a.insert(a.end(), b.begin(), b.end()); };
  append(times.ours, own.ours);
  append(times.memcpy, own.memcpy);
  append(times.streaming, own.streaming);
}

std::vector<Case> cases(bool reference) {
  std::vector<Case> all;
  for (const Size& size : sizes)
    for (const Path path : {Path::avx512, Path::avx2, Path::generic, Path::reference}) {
      if (!available(path) || (path == Path::reference && (!reference || &size != &sizes[0]))) continue;
      for (const Format format : {Format::nvfp4, Format::mxfp4})
        for (const std::string& mode : mode_names(format))
          for (const int axis : {1, 0})
            for (const Type type : {Type::fp32, Type::bf16, Type::fp16})
              for (const int threads : {1, 2}) {
                Spec spec;
                spec.format = format;
                spec.mode = *parse_mode(format, mode);
                all.push_back({spec, axis, type, size, path, threads});
              }
    }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  bool reference = false;
  // Ours first, so that what the user gives comes after and wins.
  std::vector<char*> arguments{argv[0]};
  char repeat[] = "--benchmark_repetitions=3", time[] = "--benchmark_min_time=0.1",
       aggregates[] = "--benchmark_report_aggregates_only=true";
  for (char* own : {repeat, time, aggregates}) arguments.push_back(own);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--reference") == 0) reference = true;
    else arguments.push_back(argv[i]);
  }
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;

  constexpr std::int64_t most = sizes[1].rows * sizes[1].cols;
  const Memory in[]{normal(Type::fp32, most), normal(Type::bf16, most), normal(Type::fp16, most)};
  const Memory out = memory(most * 4);
  std::memset(out.get(), 0, most * 4);  // every page is there before the first call

  std::vector<std::unique_ptr<Times>> results;
  for (const Case& c : cases(reference)) {
    results.push_back(std::make_unique<Times>(Times{c, {}, {}, {}}));
    Times& times = *results.back();
    benchmark::RegisterBenchmark(c.name().c_str(), [&, from = in[static_cast<int>(c.type)].get()](benchmark::State& state) {
      run(state, times, from, out.get());
    })->UseManualTime();
  }
  benchmark::RunSpecifiedBenchmarks();

  std::printf("\n%-52s%12s%9s%9s%12s%14s%8s\n", "", "M elements/s", "of copy", "median", "memcpy GB/s", "streaming GB/s",
              "calls");
  for (const auto& t : results) {
    if (t->ours.empty()) continue;
    const double elements = static_cast<double>(t->what.elements()), copied = t->bytes_copied() * 1e-9;
    std::printf("%-52s%12.0f%9.2f%9.2f%12.1f%14.1f%8zu\n", t->what.name().c_str(), elements / fastest(t->ours) * 1e-6,
                of_copy(*t), median_of_copy(*t), copied / fastest(t->memcpy), copied / fastest(t->streaming),
                t->ours.size());
  }
}

// Every path x mode x axis x type x size of fake_quantize beside a memory copy of the same bytes.
//
//   fake_quantize_bench [--reference] [--clock=wall|cpu] [--data=FILE] [Google Benchmark's options]
//
// Names are FORMAT/MODE/AXIS/TYPE/SIZE/PATH/THREADS, for --benchmark_filter. --reference adds the scalar
// oracle, in cache only. --clock=cpu counts the busiest thread's processor time and not the wall's: for a machine that
// others use, where a call of some milliseconds is hardly ever left alone. --data: 16 Mi raw fp32 instead of N(0, 1).
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
#include <ctime>
#include <fstream>
#include <memory>
#include <random>
#include <string>
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

bool processor_clock = false;
double processor_seconds = 0;  // of the busiest thread of each parallel region since it was set to 0

double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

template <class F>
void on_threads(int threads, F&& f) {
  double longest = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(max : longest)
  {
    const double start = thread_seconds();
    f(omp_get_thread_num());
    longest = thread_seconds() - start;
  }
  processor_seconds += longest;
}

template <class F>
double seconds(F&& f) {
  processor_seconds = 0;
  const auto start = std::chrono::steady_clock::now();
  f();
  benchmark::ClobberMemory();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  return processor_clock ? processor_seconds : wall.count();
}

// 64-byte aligned, as tensors are.
struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;
Memory memory(std::int64_t bytes) { return Memory(std::aligned_alloc(64, static_cast<std::size_t>(bytes))); }

// A million numbers of N(0, 1), over and over.
std::vector<float> normal(std::int64_t n) {
  std::mt19937 generator(1);
  std::normal_distribution<float> distribution;
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i < (1 << 20) ? distribution(generator) : x[i - (1 << 20)];
  return x;
}

std::vector<float> read(const char* path, std::int64_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(x.data()), n * 4);
  if (!file) {
    std::fprintf(stderr, "fake_quantize_bench: %s does not hold %lld fp32 numbers\n", path, static_cast<long long>(n));
    std::exit(1);
  }
  return x;
}

Memory in_type(Type type, const std::vector<float>& x) {
  Memory all = memory(static_cast<std::int64_t>(x.size()) * (type == Type::fp32 ? 4 : 2));
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (type == Type::fp32) static_cast<float*>(all.get())[i] = x[i];
    else static_cast<std::uint16_t*>(all.get())[i] = type == Type::bf16 ? encode_bf16(x[i]) : encode_fp16(x[i]);
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
  const std::int64_t part = (bytes / threads + 63) / 64 * 64;
  on_threads(threads, [&](int thread) {
    const std::int64_t first = part * thread, end = std::min(bytes, first + part);
    if (first < end) f(first, end - first);
  });
}

// A piece of whole blocks for each thread, the maximum's pass included.
void quantize(const Case& c, const void* in, void* out) {
  const std::int64_t rows = c.size.rows / c.threads, cols = c.size.cols, bytes = rows * cols * c.element_size();
  const auto input = [&](int thread) {
    return ConstView{static_cast<const char*>(in) + thread * bytes, c.type, rows, cols, cols, 1};
  };
  std::vector<float> maxima(static_cast<std::size_t>(c.threads));
  if (needs_tensor_max(c.spec)) {
    on_threads(c.threads, [&](int thread) { maxima[static_cast<std::size_t>(thread)] = finite_max(input(thread)); });
  }
  const float most = *std::max_element(maxima.begin(), maxima.end());
  on_threads(c.threads, [&](int thread) {
    const View output{static_cast<char*>(out) + thread * bytes, c.type, rows, cols, cols, 1};
    fake_quantize_piece(c.spec, most, input(thread), output, c.axis, thread * rows, nullptr, c.path);
  });
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
  state.counters["elements/s"] = static_cast<double>(c.elements()) / fastest(own.ours);
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
  const char* data = nullptr;
  // Ours first, so that what the user gives comes after and wins.
  std::vector<char*> arguments{argv[0]};
  char repeat[] = "--benchmark_repetitions=3", time[] = "--benchmark_min_time=0.1",
       aggregates[] = "--benchmark_report_aggregates_only=true";
  for (char* own : {repeat, time, aggregates}) arguments.push_back(own);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--reference") == 0) reference = true;
    else if (std::strcmp(argv[i], "--clock=wall") == 0) processor_clock = false;
    else if (std::strcmp(argv[i], "--clock=cpu") == 0) processor_clock = true;
    else if (std::strncmp(argv[i], "--data=", 7) == 0) data = argv[i] + 7;
    else arguments.push_back(argv[i]);
  }
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;

  constexpr std::int64_t most = sizes[1].rows * sizes[1].cols;
  const std::vector<float> numbers = data ? read(data, most) : normal(most);
  const Memory in[]{in_type(Type::fp32, numbers), in_type(Type::bf16, numbers), in_type(Type::fp16, numbers)};
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

// linear_w4a4 (activation quantization included) and linear beside at::linear in fp32, each at the same sizes, in turns.
//
//   product_bench [--threads=N] [Google Benchmark's options]
//
// With one thread also the products of codes that the trainer makes, their coding left out.
//
// The table at the end takes each one's fastest repetition, because what else a machine does only ever adds time.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "at_linear.h"
#include "quant/gemm/pairs.h"
#include "quant/product/multiplier.h"
#include "quant/product/operand.h"
#include "quant/product/product.h"

namespace {

using namespace assay::quant;

struct Shape {
  std::int64_t m, k, n;
  std::string name() const { return std::to_string(m) + "x" + std::to_string(k) + "x" + std::to_string(n); }
  double flop() const { return 2.0 * static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(n); }
};
const std::vector<Shape> shapes{{4096, 576, 1536}, {512, 96, 240}, {64, 288, 768}, {32, 576, 1536}, {8, 576, 1536}, {1, 576, 1536}};

const std::string peer = "at::linear fp32";

// Seconds by shape and product: the fastest repetition.
class Fastest : public benchmark::ConsoleReporter {
 public:
  std::map<std::string, double> seconds;

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      const double t = run.real_accumulated_time / static_cast<double>(run.iterations);
      const auto [at, fresh] = seconds.try_emplace(run.run_name.function_name, t);
      if (!fresh && t < at->second) at->second = t;
    }
    ConsoleReporter::ReportRuns(runs);
  }
};

std::vector<float> normal(std::int64_t n, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = distribution(generator);
  return x;
}

}  // namespace

int main(int argc, char** argv) {
  int threads = omp_get_max_threads();
  // Ours first, so that what the user gives comes after and wins.
  std::vector<char*> arguments{argv[0]};
  char interleave[] = "--benchmark_enable_random_interleaving=true", repeat[] = "--benchmark_repetitions=12",
       time[] = "--benchmark_min_time=0.05", quiet[] = "--benchmark_report_aggregates_only=false";
  for (char* own : {interleave, repeat, time, quiet}) arguments.push_back(own);
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) == 0) threads = std::atoi(argv[i] + 10);
    else arguments.push_back(argv[i]);
  }
  if (threads < 1) {
    std::fprintf(stderr, "product_bench: --threads wants a number from 1 on\n");
    return 2;
  }
  omp_set_num_threads(threads);

  const Spec per_tensor{}, per_row{Format::nvfp4, Mode::te, Scope::row}, mx{Format::mxfp4, Mode::floor};
  std::vector<std::string> products;
  for (const Shape& shape : shapes) {
    const auto [m, k, n] = shape;
    const auto x = normal(m * k, 1), w = normal(n * k, 2);
    const auto add = [&, size = shape](const std::string& what, std::function<void(float* y)> multiply) {
      if (&shape == &shapes[0]) products.push_back(what);
      const auto run = [multiply, size, y = std::vector<float>(static_cast<std::size_t>(size.m * size.n))](
                           benchmark::State& state) mutable {
        for (auto _ : state) multiply(y.data());
        state.counters["GFLOP/s"] = benchmark::Counter(size.flop() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
      };
      benchmark::RegisterBenchmark((shape.name() + " " + what).c_str(), run)->UseRealTime();
    };
    const auto at = std::make_shared<assay::bench::AtLinear>(x.data(), w.data(), m, k, n, threads);
    add(peer, [at](float*) { at->run(); });
    const Weight plain(w.data(), n, k, Use::forward);
    add("linear fp32", [=, size = shape](float* y) { linear(plain, x.data(), size.m, y); });
    const std::shared_ptr<product::Multiplier> library = product::onednn(Unit::fp32, w.data(), k, n, true);
    add("oneDNN fp32", [=, size = shape](float* y) { library->run(x.data(), size.m, y); });
    for (const Unit unit : {Unit::fp32, Unit::bf16}) {
      if (!available(unit)) continue;
      for (const auto& [what, spec] : {std::pair{"nvfp4", per_tensor}, {"nvfp4 row", per_row}, {"mxfp4", mx}}) {
        const Weight packed(spec.scope == Scope::row ? per_tensor : spec, 1, w.data(), n, k, Use::w4a4, unit);
        add("linear_w4a4 " + std::string(what) + " " + std::string(name(unit)),
            [=, size = shape, spec = spec](float* y) { linear_w4a4(spec, packed, x.data(), size.m, y); });
      }
    }
    for (const auto& [what, by, can] : {std::tuple{"codes, bf16 units", &gemm::bf16::pairs, gemm::has_bf16_units()},
                                        {"codes, fp32 by AVX2", &gemm::avx2::pairs, gemm::available(gemm::Path::avx2)}}) {
      if (!can || threads > 1) continue;
      const auto coded = [k = k](std::vector<float> of) {
        std::vector<std::uint32_t> words(of.size() / static_cast<std::size_t>(k) * static_cast<std::size_t>(gemm::words(k)));
        for (float& v : of) v = v < 0 ? -1.5f : .75f;
        for (std::size_t i = 0; i < of.size() / static_cast<std::size_t>(k); ++i)
          gemm::portable::code_row(k, of.data() + i * static_cast<std::size_t>(k), 1, words.data() + i * static_cast<std::size_t>(gemm::words(k)));
        return words;
      };
      const auto packed = std::make_shared<gemm::PackedPairs>();
      gemm::pack(*packed, coded(w).data(), k, n);
      add(what, [=, size = shape, by = by, a = coded(x)](float* y) {
        const float factor = 1;
        by(size.m, a.data(), gemm::words(size.k), *packed, 0, size.n, y, size.n, &factor, 0, nullptr);
      });
    }
    add("quantize nvfp4 row", [=, size = shape, q = std::make_shared<product::Operand>()](float*) {
      product::quantize(per_row, 0, best_unit(), true, 1, x.data(), size.m, size.k, *q);
    });
  }

  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  Fastest fastest;
  benchmark::RunSpecifiedBenchmarks(&fastest);

  std::printf("\n%d threads; %s; %s\nGFLOP/s, and how many times as fast as %s\n%-28s", threads,
              describe(Unit::fp32).c_str(), describe(Unit::bf16).c_str(), peer.c_str(), "");
  for (const Shape& shape : shapes) std::printf("%17s", shape.name().c_str());
  for (const std::string& what : products) {
    std::printf("\n%-28s", what.c_str());
    for (const Shape& shape : shapes) {
      const auto at = fastest.seconds.find(shape.name() + " " + what);
      const auto base = fastest.seconds.find(shape.name() + " " + peer);
      char text[64] = "-";
      if (at != fastest.seconds.end() && base != fastest.seconds.end()) {
        std::snprintf(text, sizeof text, "%.0f (%.2f)", shape.flop() / at->second * 1e-9, base->second / at->second);
      }
      std::printf("%17s", text);
    }
  }
  std::printf("\n");
}

// Whole runs of two ranks with train.device = "cuda": processes that mpirun starts, each with a GPU of tests/trainer/gpu, whose
// gradients go by libassay_nccl.so over the stand-in for NCCL (nccl.h). Without MPI on this machine the cases say SKIPPED.
#include <chrono>
#include <cmath>
#include <thread>

#include "tests/trainer/grpo/program.h"
#include "trainer/grpo/exit_code.h"

namespace assay::test {
namespace {

constexpr const char* program = "assay-train-stand-in";

spec::Config two_gpus() {
  spec::Config config = tiny_config();
  config.train.device = "cuda";
  config.train.ranks = 2;
  config.train.steps = 2;
  config.train.threads = 1;
  config.grpo.train_batch_size = 9;  // shares of different size
  config.quant.format = "nvfp4";
  config.quant.injection_point = "weight";
  return config;
}

struct Environment {
  Environment(const char* n, const std::string& value) : name(n) { setenv(name, value.c_str(), 1); }
  ~Environment() { unsetenv(name); }
  const char* name;
};

pid_t number_in(const fs::path& file) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (read_text(file).find('\n') == std::string::npos) {
    if (std::chrono::steady_clock::now() > deadline) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return static_cast<pid_t>(std::stol(read_text(file)));
}

}  // namespace

TEST_CASE("nccl: two ranks on two GPUs are one within float summation, and the same bits each time") {
  if (!mpi_is_here()) return;
  const Environment torch("ASSAY_TORCH", ASSAY_STAND_IN_SITE);
  auto config = two_gpus();
  const fs::path two = make_run("nccl-two", config), again = make_run("nccl-again", config);
  config.train.ranks = 1;
  const fs::path one = make_run("nccl-one", config);
  for (const fs::path& run : {one, two, again}) {
    const Result result = Program("nccl-run", {"run", run.string()}, "", program).wait();
    INFO(result.err);
    REQUIRE(result.code == train::exit_finished);
  }
  CHECK(metrics_of(two) == metrics_of(again));
  CHECK(read_text(two / "adapter/adapter_model.safetensors") == read_text(again / "adapter/adapter_model.safetensors"));
  const auto alone = metrics_of(one), together = metrics_of(two);
  for (const auto& [key, value] : alone.at(1)) {
    INFO(key);
    CHECK(together.at(1).at(key).get<double>() == Approx(value.get<double>()).epsilon(1e-3).margin(1e-5));
  }
}

TEST_CASE("nccl: what comes while the ranks wait for their gradients") {
  if (!mpi_is_here()) return;
  const Environment torch("ASSAY_TORCH", ASSAY_STAND_IN_SITE);
  const bool killed = GENERATE(false, true);
  const fs::path run = make_run("nccl-stalled", two_gpus());
  const Environment stall("ASSAY_NCCL_STAND_IN_STALL", run / "waits");
  Program ranks("nccl-stalled", {"run", run.string()}, "", program);
  const pid_t first = number_in(run / "waits.0"), second = number_in(run / "waits.1");
  REQUIRE((first > 0 && second > 0 && first != second));
  kill(killed ? second : ranks.pid(), killed ? SIGKILL : SIGTERM);
  const Result result = ranks.wait();
  INFO(result.err);
  if (killed) {
    CHECK(result.code == train::exit_fault);
    CHECK_THAT(result.err, Catch::Contains("rank 1 of 2 was ended by a signal"));
  } else {
    CHECK(result.code == train::exit_terminated);
    CHECK(event_kinds(run).back() == "terminated");
  }
  for (const pid_t rank : {first, second}) CHECK(read_text("/proc/" + std::to_string(rank) + "/cmdline").empty());
}

}  // namespace assay::test

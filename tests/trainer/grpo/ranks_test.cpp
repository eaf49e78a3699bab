// train.ranks: several processes are one run. Without MPI on this machine the cases say SKIPPED.
#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <thread>

#include "tests/trainer/grpo/program.h"
#include "trainer/cuda/loader.h"
#include "trainer/grpo/train.h"

using namespace assay;
using namespace assay::test;

namespace {

spec::Config two_ranks() {
  auto config = tiny_config();
  config.train.ranks = 2;
  config.quant.format = "mxfp4";
  config.quant.mode = "floor";
  config.grpo.train_batch_size = 9;  // shares of different size; the last mini-batch is one prompt, rank 0 has none of it
  config.grpo.mini_batch_size = 4;
  return config;
}

// The processes that are rank `rank` of the run in `folder`.
std::vector<pid_t> rank_processes(const fs::path& folder, int rank) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string environment = read_text(entry.path() / "environ"), words = read_text(entry.path() / "cmdline");
    if (words.find(folder.string()) != std::string::npos &&
        environment.find("OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + std::string(1, '\0')) != std::string::npos)
      found.push_back(static_cast<pid_t>(std::stol(name)));
  }
  return found;
}

// Waits until the run has logged that many metrics lines.
bool has_lines(const fs::path& run, std::size_t wanted) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (!fs::exists(run / "metrics.jsonl") || lines_in(read_text(run / "metrics.jsonl")) < wanted) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

std::string last_line(const std::string& text) {
  const auto end = text.find_last_not_of('\n');
  return end == std::string::npos ? "" : text.substr(text.rfind('\n', end) + 1, end - text.rfind('\n', end));
}

}  // namespace

TEST_CASE("two ranks are one within float summation, and the same bits each time") {
  if (!mpi_is_here()) return;
  auto config = two_ranks();
  const auto two = make_run("ranks-two", config), again = make_run("ranks-again", config);
  config.train.ranks = 1;
  const auto one = make_run("ranks-one", config);
  REQUIRE(train::train(one) == train::exit_finished);
  for (const auto& run : {two, again}) {
    const auto result = run_program("ranks", {"run", run.string()});
    INFO(result.err);
    REQUIRE(result.code == 0);
    CHECK(lines_in(result.out) == 6);  // rank 0 speaks, and nobody else
  }
  CHECK(metrics_of(two) == metrics_of(again));
  CHECK(read_text(two / "adapter/adapter_model.safetensors") == read_text(again / "adapter/adapter_model.safetensors"));

  const auto a = metrics_of(one), b = metrics_of(two);
  REQUIRE(a.size() == b.size());
  CHECK(a.at(0) == b.at(0));
  for (const auto& [step, metrics] : a)
    for (const auto& [key, value] : metrics) {
      INFO(step << " " << key);
      REQUIRE(b.at(step).count(key) == 1);
      // The first step samples from the same weights: only what is summed over rows differs.
      const bool summed = key.starts_with("actor/") || key.starts_with("training/") || key.starts_with("rollout_corr/");
      if (step == 1 && !summed) CHECK(b.at(step).at(key) == value);
      if (step == 1 || key == "actor/weight_norm") CHECK(b.at(step).at(key).get<double>() == Approx(value.get<double>()).epsilon(1e-4).margin(1e-6));
    }
  CHECK(read_text(one / "samples/step-000001.jsonl") == read_text(two / "samples/step-000001.jsonl"));
  CHECK(read_text(one / "eval/step-000000.jsonl") == read_text(two / "eval/step-000000.jsonl"));
}

TEST_CASE("a rank that is killed ends the whole run, and is named") {
  if (!mpi_is_here()) return;
  auto config = two_ranks();
  config.train.steps = 1000000;
  config.eval.test_freq = 1000000;
  for (const int victim : {1, 0}) {
    INFO(victim);
    const auto run = make_run("ranks-killed-" + std::to_string(victim), config);
    Program program("ranks-killed-" + std::to_string(victim), {"run", run.string()});
    REQUIRE(has_lines(run, 3));
    const auto pids = rank_processes(run, victim);
    REQUIRE(pids.size() == 1);
    kill(pids.front(), SIGKILL);
    const auto result = program.wait();
    CHECK(result.code == 1);
    CHECK_THAT(last_line(result.err), Catch::Contains("rank " + std::to_string(victim) + " of 2 was ended by a signal"));
    for (const auto& kind : event_kinds(run)) CHECK(kind != "finished");
    for (const int rank : {0, 1}) CHECK(rank_processes(run, rank).empty());
  }
}

TEST_CASE("SIGTERM leaves a checkpoint, from which the ranks go on") {
  if (!mpi_is_here()) return;
  auto config = two_ranks();
  config.train.steps = 8;
  const auto whole = make_run("ranks-whole", config), stopped = make_run("ranks-stopped", config);
  REQUIRE(run_program("ranks-whole", {"run", whole.string()}).code == 0);
  Program program("ranks-stopped", {"run", stopped.string()});
  REQUIRE(has_lines(stopped, 4));
  kill(program.pid(), SIGTERM);
  const auto result = program.wait();
  INFO(result.err);
  REQUIRE(result.code == 5);
  CHECK(event_kinds(stopped).back() == "terminated");
  const auto resumed = run_program("ranks-resumed", {"run", "--resume", stopped.string()});
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(metrics_of(whole) == metrics_of(stopped));
  CHECK(read_text(whole / "adapter/adapter_model.safetensors") == read_text(stopped / "adapter/adapter_model.safetensors"));
}

TEST_CASE("ranks refuse with one voice") {
  if (!mpi_is_here()) return;
  const auto run = make_run("ranks-refused", two_ranks());
  write_text(run / "train.jsonl", "no json\n");
  const auto result = run_program("ranks-refused", {"run", run.string()});
  CHECK(result.code == 3);
  CHECK(lines_in(result.err) == 1);
  CHECK_THAT(result.err, Catch::Contains("train.jsonl:1"));
}

TEST_CASE("ranks on GPUs refuse with one voice where there are none, or too few") {
  if (!mpi_is_here()) return;
  auto config = two_ranks();
  config.train.ranks = 3;
  config.train.device = "cuda";
  const auto run = make_run("ranks-gpus", config);
  const auto refused = [&](const char* visible) {
    setenv("CUDA_VISIBLE_DEVICES", visible, 1);
    const auto result = run_program("ranks-gpus", {"run", run.string()});
    unsetenv("CUDA_VISIBLE_DEVICES");
    CHECK(result.code == 3);
    CHECK(lines_in(result.err) == 1);
    fs::remove(run / "metrics.jsonl");
    return result.err;
  };
  CHECK_THAT(refused("4,6"), Catch::Contains("rank 2 of 3 has no GPU, since 3 ranks of its machine are given 2 GPUs (CUDA_VISIBLE_DEVICES=4,6)"));
  if (train::open_gpu().accelerator) return report_skipped("three ranks without a GPU", "there is a GPU here");
  CHECK_THAT(refused("0,1,2"), Catch::Contains("train.device = \"cuda\": ") && Catch::Contains("set train.device = \"cpu\""));
}

TEST_CASE("two ranks on two GPUs are one within float summation") {
  if (!mpi_is_here()) return;
  const auto& opened = train::open_gpu();
  if (!opened.accelerator) return report_skipped("two ranks on two GPUs", "no GPU: " + opened.missing);
  if (at::globalContext().hasCUDA() && c10::impl::VirtualGuardImpl(at::kCUDA).deviceCount() < 2)
    return report_skipped("two ranks on two GPUs", "there is one GPU");
  auto config = two_ranks();
  config.train.device = "cuda";
  const auto two = make_run("ranks-two-gpus", config), again = make_run("ranks-two-gpus-again", config);
  config.train.ranks = 1;
  const auto one = make_run("ranks-one-gpu", config);
  for (const auto& run : {one, two, again}) {
    const auto result = run_program("ranks-gpus", {"run", run.string()});
    INFO(result.err);
    REQUIRE(result.code == 0);
  }
  CHECK(metrics_of(two) == metrics_of(again));
  const auto alone = metrics_of(one), together = metrics_of(two);
  for (const auto& [key, value] : alone.at(1)) {
    INFO(key);
    CHECK(together.at(1).at(key).get<double>() == Approx(value.get<double>()).epsilon(1e-3).margin(1e-5));
  }
}

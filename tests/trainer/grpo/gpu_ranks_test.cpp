// Ranks on GPUs, as far as that goes without one: which GPU is whose, sums as they are formed on a device, and how waiting ends.
#include "trainer/grpo/gpu_ranks.h"

#include <ATen/ATen.h>

#include "tests/catch.h"
#include "tests/trainer/grpo/rank_values.h"
#include "tests/trainer/grpo/thread_ranks.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/stop.h"

using namespace assay;
using namespace assay::test;
using train::BadInput;
using train::GpuRanks;
using train::Ranks;
using train::nccl::Communicator;
using train::nccl::Piece;

namespace {

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

// Says what it is told to, and remembers.
struct Scripted : Communicator {
  std::vector<State> answers;  // one for each look; the last goes on
  std::string reason;
  bool* aborted;
  explicit Scripted(std::vector<State> says, bool& gone, std::string why = "") : answers(std::move(says)), reason(std::move(why)), aborted(&gone) {}
  void begin_nothing() override {}
  void begin(const Piece*, const Piece*) override {}
  State state(std::string& why) override {
    const State now = answers.front();
    if (answers.size() > 1) answers.erase(answers.begin());
    if (now == State::failed) why = reason;
    return now;
  }
  void abort() override { *aborted = true; }
};

void exchange_nothing(GpuRanks& gpus) { gpus.exchange(at::zeros({2}), {4, 4}, at::empty({2, 1})); }

}  // namespace

TEST_CASE("gpu ranks: each has the GPU that is as far on as there are ranks before it on its machine") {
  using train::own_gpu;
  CHECK(own_gpu({{"a", "0,1"}, {"a", "0,1"}}, 0) == "0");
  CHECK(own_gpu({{"a", "0,1"}, {"a", "0,1"}}, 1) == "1");
  CHECK(own_gpu({{"a", "2,5,7"}, {"a", "2,5,7"}}, 1) == "5");                         // what the daemon gives
  CHECK(own_gpu({{"a", "GPU-12ab,GPU-34cd"}, {"a", "GPU-12ab,GPU-34cd"}}, 1) == "GPU-34cd");
  CHECK(own_gpu({{"a", {}}, {"a", {}}, {"a", {}}}, 2) == "2");                        // all there are
  CHECK(own_gpu({{"a", "0,1"}, {"b", "0,1"}, {"a", "0,1"}, {"b", "0,1"}}, 1) == "0");  // two machines
  CHECK(own_gpu({{"a", "0,1"}, {"b", "0,1"}, {"a", "0,1"}, {"b", "0,1"}}, 2) == "1");
  CHECK(own_gpu({{"a", "0"}, {"a", "1"}}, 1) == "1");                                 // one for each task, as Slurm gives them
}

TEST_CASE("gpu ranks: fewer GPUs than ranks is refused, and so is one for two") {
  using train::own_gpu;
  const std::vector<train::RankPlace> three{{"a", "4,6"}, {"a", "4,6"}, {"a", "4,6"}};
  CHECK(refusal([&] { own_gpu(three, 2); }) ==
        "train.device = \"cuda\": rank 2 of 3 has no GPU, since 3 ranks of its machine are given 2 GPUs (CUDA_VISIBLE_DEVICES=4,6); set "
        "train.ranks to the number of GPUs, or give the run more");
  CHECK_THAT(refusal([&] { own_gpu({{"a", ""}, {"a", ""}}, 0); }), Catch::Contains("given 0 GPUs"));
  CHECK(refusal([&] { train::check_apart({"GPU-1", "GPU-2", "GPU-3"}); }).empty());
  CHECK(refusal([&] { train::check_apart({"GPU-1", "GPU-2", "GPU-1"}); }) ==
        "train.device = \"cuda\": ranks 0 and 2 are given the same GPU (GPU-1); set train.ranks to the number of GPUs, or give the run more");
}

TEST_CASE("gpu ranks: sums have the bits of sums in double in the order of the ranks, over MPI's calls and over NCCL's") {
  for (const int size : {2, 3, 5})
    for (const std::int64_t n : {0, 1, 4, 1000, 4097}) {
      INFO(size << " ranks, " << n << " values");
      const std::vector<float> wanted = expected(size, n);
      for (const bool on_gpus : {false, true}) {
        Hub hub(size);
        Wires wires(size);
        std::vector<at::Tensor> sums(static_cast<std::size_t>(size));
        hub.run([&](Ranks& ranks) {
          if (on_gpus) connect(ranks, wires);
          const at::Tensor values = values_of(ranks.rank(), n);
          ranks.sum(values);
          sums[static_cast<std::size_t>(ranks.rank())] = values;
        });
        CHECK(wires.transfers() == (on_gpus && n > 0 ? 2 : 0));
        for (const at::Tensor& sum : sums)
          CHECK((n == 0 || std::memcmp(sum.const_data_ptr(), wanted.data(), wanted.size() * sizeof(float)) == 0));
      }
    }
}

TEST_CASE("gpu ranks: more values than are summed at once") {
  const std::int64_t n = (8 << 20) + 3;
  const std::vector<float> wanted = expected(2, n);
  Hub hub(2);
  Wires wires(2);
  std::vector<at::Tensor> sums(2);
  hub.run([&](Ranks& ranks) {
    connect(ranks, wires);
    sums[static_cast<std::size_t>(ranks.rank())] = values_of(ranks.rank(), n);
    ranks.sum(sums[static_cast<std::size_t>(ranks.rank())]);
  });
  CHECK(wires.transfers() == 4);
  for (const at::Tensor& sum : sums) CHECK(std::memcmp(sum.const_data_ptr(), wanted.data(), wanted.size() * sizeof(float)) == 0);
}

TEST_CASE("gpu ranks: waiting ends with what NCCL says, with a signal, or with the limit") {
  using State = Communicator::State;
  const auto go_on = [] { return false; };
  const auto met = [] {};
  const auto text_of = [](const std::function<void()>& f) -> std::string {
    try {
      f();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  };
  bool aborted = false;
  SECTION("NCCL fails while the ranks are connected") {
    CHECK(text_of([&] {
            GpuRanks gpus(std::make_unique<Scripted>(std::vector{State::working, State::failed}, aborted, "no route"), 0, 2, go_on, met);
          }) == "NCCL could not connect the ranks' GPUs: no route");
    CHECK(aborted);
  }
  SECTION("NCCL fails later") {
    GpuRanks gpus(std::make_unique<Scripted>(std::vector{State::done, State::working, State::failed}, aborted, "remote process exited"), 0, 2,
                  go_on, met);
    CHECK_FALSE(aborted);
    CHECK(text_of([&] { exchange_nothing(gpus); }) == "NCCL could not exchange 4 bytes of gradients: remote process exited");
    CHECK(aborted);
  }
  SECTION("another rank never comes") {
    GpuRanks gpus(std::make_unique<Scripted>(std::vector{State::done, State::working}, aborted), 0, 2, go_on, met, std::chrono::seconds(0));
    CHECK_THAT(text_of([&] { exchange_nothing(gpus); }), Catch::StartsWith("NCCL did not exchange 4 bytes of gradients within 0 seconds"));
    CHECK(aborted);
  }
  SECTION("a signal") {
    bool stop = false;
    GpuRanks gpus(std::make_unique<Scripted>(std::vector{State::done, State::working}, aborted), 0, 2, [&] { return stop; }, met);
    stop = true;
    CHECK_THROWS_AS(exchange_nothing(gpus), train::Stopped);
    CHECK(aborted);
  }
  SECTION("what a GPU computes before does not count") {
    std::vector<State> answers(1100, State::working);
    answers.insert(answers.begin(), State::done);
    answers.push_back(State::done);
    bool others = false;
    GpuRanks gpus(std::make_unique<Scripted>(answers, aborted), 0, 2, go_on, [&] { others = true; }, std::chrono::seconds(0));
    gpus.meet();
    CHECK(others);
    exchange_nothing(gpus);
    CHECK_FALSE(aborted);
  }
}

TEST_CASE("gpu ranks: a rank that gives up is seen by one that waits for its GPU") {
  Hub hub(2);
  Wires wires(2);
  bool stopped = false;
  CHECK_THROWS_WITH(hub.run([&](Ranks& ranks) {
    connect(ranks, wires);
    if (ranks.rank() == 0) throw std::runtime_error("rank 0 is gone");
    try {
      ranks.sum(values_of(1, 10));
    } catch (const train::Stopped&) {
      stopped = true;
      throw;
    }
  }),
                    "rank 0 is gone");
  CHECK(stopped);
}

// libassay_nccl.so, as it is built and opened, between ranks that are threads: sums by its calls, and how waiting ends.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>

#include "tests/catch.h"
#include "tests/trainer/cuda/nccl.h"
#include "tests/trainer/cuda/runtime.h"
#include "tests/trainer/grpo/rank_values.h"
#include "tests/trainer/grpo/thread_ranks.h"
#include "tests/trainer/model/recorder.h"
#include "trainer/grpo/stop.h"
#include "trainer/nccl/loader.h"

namespace assay::test {
namespace {

using namespace train;
using std::chrono::seconds;

struct NumberedGpu : Recorder {
  explicit NumberedGpu(int n) : number(n) {}
  std::string identity() const override { return "GPU-" + std::to_string(number); }
  int number;
};

const nccl::Table& table() {
  REQUIRE(open_nccl().missing.empty());
  return *open_nccl().table;
}

std::string id_of() {
  std::string why;
  const std::string id = table().make_id(why);
  REQUIRE(why.empty());
  return id;
}

// What a rank of its own ends with.
std::string said_by(const std::function<void()>& f) {
  try {
    f();
  } catch (const Stopped&) {
    return "stopped";
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// f(rank) in a thread for each: what each ends with.
std::vector<std::string> by_ranks(int size, const std::function<void(int)>& f) {
  std::vector<std::string> said(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back([&, r] { said[static_cast<std::size_t>(r)] = said_by([&] { f(r); }); });
  for (auto& thread : threads) thread.join();
  return said;
}

std::unique_ptr<nccl::Communicator> joining(const std::string& id, int rank, int size) {
  return std::unique_ptr<nccl::Communicator>(table().join(id, rank, size));
}
// What `limit` says has no part in this one's joining.
std::unique_ptr<nccl::Communicator> joined(const std::string& id, int rank, int size) {
  auto communicator = joining(id, rank, size);
  std::string why;
  while (communicator->state(why) == nccl::Communicator::State::working) std::this_thread::yield();
  return communicator;
}
GpuRanks connected(std::unique_ptr<nccl::Communicator> communicator, int rank, int size, seconds limit = seconds(60),
                   std::function<bool()> give_up = [] { return false; }) {
  return GpuRanks(std::move(communicator), rank, size, std::move(give_up), [] {}, limit);
}
GpuRanks connected(const std::string& id, int rank, int size) { return connected(joining(id, rank, size), rank, size); }

// As Ranks::sum() gives to each rank what the others have for it: `each` values.
at::Tensor exchanged(GpuRanks& gpus, const at::Tensor& mine, int size, std::int64_t each) {
  const at::Tensor received = at::empty({size, each}, mine.options());
  gpus.exchange(mine, std::vector<std::int64_t>(static_cast<std::size_t>(size), each * 4), received);
  return received.cpu();
}

at::Tensor numbers(float first, std::int64_t n) { return at::arange(n, at::kFloat).add(first).cuda(); }

struct NothingLeft {
  ~NothingLeft() {
    CHECK(nccl_communicators() == 0);
    CHECK(cuda::events() == 0);
  }
};

}  // namespace

TEST_CASE("nccl: sums have the bits of sums in double in the order of the ranks") {
  const NothingLeft nothing;
  for (const int size : {2, 3, 4})
    for (const std::int64_t n : {0, 1, 4, 1000, 4097}) {  // shares of different size, and of none
      INFO(size << " ranks, " << n << " values");
      std::vector<at::Tensor> sums(static_cast<std::size_t>(size));
      std::atomic<int> wrong{0};
      Hub hub(size);
      hub.run([&](Ranks& ranks) {
        nccl_stand_in() = {};
        NumberedGpu gpu(ranks.rank());
        join_gpus(ranks, gpu);
        const at::Tensor values = values_of(ranks.rank(), n).cuda();
        ranks.sum(values);
        ranks.sum(at::ones({5}).cuda());  // and once more
        sums[static_cast<std::size_t>(ranks.rank())] = values.cpu();
        wrong += nccl_stand_in().misuses + static_cast<int>(cuda::unfinished()) + (n > 3 && nccl_stand_in().groups != 4);
      });
      CHECK(wrong == 0);
      const std::vector<float> wanted = expected(size, n);
      for (const at::Tensor& sum : sums)
        CHECK((n == 0 || std::memcmp(sum.const_data_ptr(), wanted.data(), wanted.size() * sizeof(float)) == 0));
    }
}

TEST_CASE("nccl: pieces are read and written on the current stream, behind what was put there") {
  const NothingLeft nothing;
  const std::string id = id_of();
  const auto said = by_ranks(2, [&](int rank) {
    GpuRanks gpus = connected(id, rank, 2);
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    const at::Tensor mine = at::zeros({4}).cuda();
    for (const float value : {1.f, 2.f, 3.f})
      cuda::put(c10::cuda::getCurrentCUDAStream(), [&, value] {
        mine.fill_(value + static_cast<float>(rank));
        return true;
      });
    const at::Tensor received = exchanged(gpus, mine, 2, 2);
    if (!received[1 - rank].equal(at::full({2}, 4.f - static_cast<float>(rank)))) throw std::runtime_error("sent too early");
    bool computed = false;
    cuda::put(c10::cuda::getCurrentCUDAStream(), [&, looks = 0]() mutable { return computed = ++looks > 5; });
    gpus.meet();
    if (!computed) throw std::runtime_error("met too early");
  });
  CHECK(said == std::vector<std::string>{"", ""});
}

TEST_CASE("nccl: what NCCL finds wrong is said in its words") {
  const NothingLeft nothing;
  SECTION("no way to the network") {
    nccl_stand_in().get_id = ncclSystemError;
    nccl_stand_in().words = "no interface\nand more";
    std::string why;
    CHECK(table().make_id(why).empty());
    CHECK(why == "unhandled system error (run with NCCL_DEBUG=INFO for details) (no interface)");
  }
  SECTION("joining") {
    nccl_stand_in().init = ncclUnhandledCudaError;
    nccl_stand_in().words = "";
    CHECK(said_by([] { connected(id_of(), 0, 2); }) ==
          "NCCL could not connect the ranks' GPUs: unhandled cuda error (run with NCCL_DEBUG=INFO for details)");
    CHECK_THAT(said_by([] { connected("/nowhere", 0, 2); }), Catch::StartsWith("NCCL could not connect the ranks' GPUs: "));
  }
  SECTION("a group, when it is begun or later") {
    const bool later = GENERATE(false, true);
    const std::string id = id_of();
    const auto said = by_ranks(2, [&](int rank) {
      GpuRanks gpus = connected(id, rank, 2);
      (later ? nccl_stand_in().later : nccl_stand_in().group_end) = rank == 0 ? ncclInternalError : ncclSystemError;
      nccl_stand_in().words = "rank " + std::to_string(rank);
      const std::string first = said_by([&] { exchanged(gpus, numbers(0, 4), 2, 2); });
      if (cuda::unfinished() != 0 && !later) throw std::runtime_error("work of a group that was refused");
      if (said_by([&] { exchanged(gpus, numbers(0, 4), 2, 2); }) != first || said_by([&] { gpus.meet(); }).empty())
        throw std::runtime_error("done behind an error");
      if (nccl_stand_in().misuses != 0) throw std::runtime_error("NCCL is asked behind an error");
      throw std::runtime_error(first);
    });
    const std::string what = "NCCL could not exchange 8 bytes of gradients: ";
    CHECK(said[0] == what + "internal error - please report this issue to the NCCL developers (rank 0)");
    CHECK(said[1] == what + "unhandled system error (run with NCCL_DEBUG=INFO for details) (rank 1)");
  }
  SECTION("pieces that two ranks do not agree on") {
    const std::string id = id_of();
    const auto said = by_ranks(2, [&](int rank) {
      GpuRanks gpus = connected(id, rank, 2);
      exchanged(gpus, numbers(0, 8), 2, rank == 0 ? 2 : 4);
    });
    for (const std::string& error : said) CHECK_THAT(error, Catch::EndsWith("(a piece is not as long as what was sent)"));
  }
  SECTION("addresses of the host") {
    const std::string id = id_of();
    const auto said = by_ranks(2, [&](int rank) {
      GpuRanks gpus = connected(id, rank, 2);
      exchanged(gpus, at::ones({4}), 2, 2);
    });
    for (const std::string& error : said) CHECK_THAT(error, Catch::EndsWith("(buff is not a valid pointer)"));
  }
}

TEST_CASE("nccl: waiting for a rank that is gone, or never came, has an end") {
  const NothingLeft nothing;
  const std::string id = id_of();
  std::barrier all(2);
  // Rank 0 is gone when both have joined, and rank 1 waits for its pieces.
  const auto left_alone = [&](bool network, seconds limit, bool signal, const std::function<void()>& afterwards) {
    return by_ranks(2, [&](int rank) {
      nccl_stand_in().network = network;
      auto communicator = joined(id, rank, 2);
      all.arrive_and_wait();
      if (rank == 0) return;
      bool begun = false;
      nccl::Communicator& own = *communicator;
      GpuRanks gpus = connected(std::move(communicator), rank, 2, limit, [&] {
        std::string why;
        while (begun && nccl_stand_in().groups == 0) own.state(why);  // not before the device has it
        return begun && signal;
      });
      begun = true;
      const std::string said = said_by([&] { exchanged(gpus, numbers(0, 4), 2, 2); });
      afterwards();
      throw std::runtime_error(said);
    })[1];
  };
  SECTION("as the network says") {
    CHECK_THAT(left_alone(true, seconds(60), false, [] {}),
               Catch::EndsWith(": remote process exited or there was a network error (connection closed by rank 0)"));
  }
  SECTION("by the limit where NCCL says nothing, or by a signal; and the device has nothing left to do") {
    const bool signal = GENERATE(false, true);
    bool idle = false;
    const std::string said = left_alone(false, seconds(signal ? 60 : 0), signal, [&] {
      c10::cuda::CUDAEvent last;
      last.record();
      last.synchronize();
      idle = cuda::unfinished() == 0;
    });
    if (signal) CHECK(said == "stopped");
    else CHECK_THAT(said, Catch::StartsWith("NCCL did not exchange 8 bytes of gradients within 0 seconds"));
    CHECK(idle);
  }
  SECTION("while they connect") {
    CHECK_THAT(said_by([&] { connected(joining(id, 0, 2), 0, 2, seconds(0)); }),
               Catch::StartsWith("NCCL did not connect the ranks' GPUs within 0 seconds"));
    CHECK(said_by([&] { connected(joining(id_of(), 0, 2), 0, 2, seconds(60), [] { return true; }); }) == "stopped");
  }
  CHECK(nccl_stand_in().misuses == 0);
}

TEST_CASE("nccl: the stand-in refuses what NCCL refuses") {
  const NothingLeft nothing;
  const std::string text = id_of();
  std::atomic<int> here{0};
  const auto said = by_ranks(2, [&](int rank) {
    nccl_stand_in() = {};
    const auto check = [](bool right, const char* what) {
      if (!right) throw std::runtime_error(what);
    };
    ncclUniqueId id{};
    std::memcpy(id.internal, text.data(), sizeof id.internal);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = nullptr;
    check(ncclCommInitRankConfig(&comm, 2, id, rank, &config) == ncclInvalidArgument && !comm, "a communicator that blocks");
    config.blocking = 0;
    check(ncclCommInitRankConfig(&comm, 2, id, rank, &config) == ncclInProgress && comm, "joining at once");
    const at::Tensor x = at::ones({4}).cuda(), y = at::zeros({4}).cuda();
    const int peer = 1 - rank;
    const auto send = [&](std::size_t bytes) { return ncclSend(x.const_data_ptr(), bytes, ncclUint8, peer, comm, nullptr); };
    const auto receive = [&](std::size_t bytes) { return ncclRecv(y.mutable_data_ptr(), bytes, ncclUint8, peer, comm, nullptr); };
    const auto ready = [&] {
      ncclResult_t result = ncclInProgress;
      int looks = 0;
      for (; result == ncclInProgress; ++looks) ncclCommGetAsyncError(comm, &result);
      check(looks > 1 && result == ncclSuccess, "no progress, or none was needed");
    };
    const auto finish = [&] {
      for (int i = 0; cuda::unfinished() > 0; ++i) {
        cudaEvent_t event;
        cudaEventCreateWithFlags(&event, 0);
        cudaEventQuery(event);
        cudaEventDestroy(event);
      }
    };
    ready();
    check(ncclGroupEnd() == ncclInvalidUsage, "the end of no group");
    ncclGroupStart();
    check(send(8) == ncclSuccess && send(8) == ncclSuccess && receive(8) == ncclSuccess && receive(8) == ncclSuccess, "a group");
    check(cuda::unfinished() == 0, "work before the group's end");
    check(ncclGroupEnd() == ncclInProgress && cuda::unfinished() == 0, "work before it is ready");
    ready();
    check(nccl_stand_in().groups == 1 && !y[0].cpu().item<bool>(), "done before the stream came to it");
    finish();
    check(y.cpu().narrow(0, 0, 2).equal(at::ones({2})) && !y[2].cpu().item<bool>(), "not what was sent");
    if (rank == 0) check(send(4) == ncclInProgress, "a send without a group");
    else check(receive(4) == ncclInProgress, "a receive without a group");
    if (rank == 0) check(receive(4) == ncclInvalidArgument, "a second use while the first is in progress");
    else check(send(4) == ncclInvalidArgument, "a second use while the first is in progress");
    ++here;
    while (here < 2) std::this_thread::yield();
    check(ncclCommAbort(comm) == ncclSuccess && nccl_stand_in().misuses == 0, "giving up");
    ncclResult_t result = ncclSuccess;
    check(ncclCommGetAsyncError(comm, &result) == ncclInvalidArgument && ncclCommAbort(comm) != ncclSuccess &&
              nccl_stand_in().misuses == 2, "use of what was given up");
  });
  CHECK(said == std::vector<std::string>{"", ""});
}

}  // namespace assay::test

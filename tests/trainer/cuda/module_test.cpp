// libassay_train_cuda.so as it is built, over stand-ins for CUDA's streams and LibTorch's graphs (runtime.h): what it puts on which
// stream, and when.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <dlfcn.h>

#include "tests/catch.h"
#include "tests/trainer/cuda/runtime.h"
#include "tests/trainer/gpu/stand_in.h"
#include "trainer/cuda/module.h"

namespace assay::test {
namespace {

using namespace train;
using Calls = std::vector<std::string>;

Accelerator& gpu() {
  static Accelerator* const own = [] {
    const std::string file = std::string(ASSAY_BINARY_DIR) + "/bin/libassay_train_cuda.so";
    void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    INFO((handle ? "" : dlerror()));
    REQUIRE(handle);
    const auto entry = reinterpret_cast<decltype(&ASSAY_TRAIN_CUDA_ENTRY)>(dlsym(handle, ASSAY_TRAIN_CUDA_ENTRY_NAME));
    REQUIRE(entry);
    std::string missing;
    cuda::state().present = false;
    CHECK(entry(missing) == nullptr);
    CHECK(missing == "the GPU cannot be used: No CUDA GPUs are available");
    cuda::state().present = true;
    missing.clear();
    Accelerator* const made = entry(missing);
    REQUIRE(made);
    CHECK(missing.empty());
    CHECK(entry(missing) == made);
    return made;
  }();
  return *own;
}

cudaStream_t current() { return c10::cuda::getCurrentCUDAStream().stream(); }

// Puts work on the current stream that takes `looks` looks.
void put(const std::function<void()>& work, int looks = 1) {
  cuda::put(current(), [work, looks]() mutable {
    if (--looks > 0) return false;
    work();
    return true;
  });
}

void finish() {
  c10::cuda::CUDAEvent event;
  event.record();
  event.synchronize();
}

struct NothingLeft {
  NothingLeft() {
    gpu();
    cuda::state().calls.clear();
  }
  ~NothingLeft() {
    copies_beside_the_host(nullptr);
    CHECK(cuda::unfinished() == 0);
    CHECK(cuda::events() == 0);
    CHECK(cuda::graphs() == 0);
    CHECK(current() == nullptr);
  }
};

}  // namespace

TEST_CASE("cuda module: the GPU's name, its identity and its memory") {
  const NothingLeft nothing;
  CHECK(gpu().name() == "A stand-in, compute capability 9.1");
  CHECK(gpu().identity() == "GPU-00112233445566778899aabbccddeeff");
  CHECK(gpu().device() == at::Device(at::kCUDA, 0));
  cuda::state().most_bytes = std::int64_t{3} << 29;
  CHECK(gpu().peak_memory_gb() == 1.5);
}

TEST_CASE("cuda module: work on the stream of its own is behind what was begun before, and what comes after is behind it") {
  const NothingLeft nothing;
  Calls order;
  cudaStream_t own = nullptr;
  const auto work = [&](bool fails) {
    put([&] { order.emplace_back("before"); }, 9);
    gpu().on_own_stream([&] {
      own = current();
      put([&] { order.emplace_back("own"); }, 4);
      if (fails) throw std::runtime_error("of the work");
    });
  };
  SECTION("done") { work(false); }
  SECTION("thrown out of") { CHECK_THROWS_WITH(work(true), "of the work"); }
  CHECK(own != nullptr);
  CHECK(current() == nullptr);
  put([&] { order.emplace_back("after"); });
  CHECK(order.empty());  // the host has not waited
  finish();
  CHECK(order == Calls{"before", "own", "after"});
}

TEST_CASE("cuda module: a graph is recorded, not done, and replayed where it is asked for") {
  const NothingLeft nothing;
  int done = 0;
  std::unique_ptr<Accelerator::Graph> graph;
  gpu().on_own_stream([&] {
    graph = gpu().capture([&] {
      put([&] { ++done; });
      put([&] { done *= 10; }, 3);
    });
    CHECK(cuda::state().calls == Calls{"empty the cache", "begin", "end"});
    CHECK(done == 0);
    graph->replay();
    CHECK(done == 0);  // returns at once
    graph->replay();
  });
  finish();
  CHECK(done == 110);
  CHECK(cuda::state().calls == Calls{"empty the cache", "begin", "end", "replay", "replay"});
  CHECK(cuda::graphs() == 1);
  CHECK_THROWS_WITH(gpu().capture([] {}), Catch::Contains("recording on the default stream"));
}

TEST_CASE("cuda module: what goes wrong while a graph is recorded is said, and the stream records no longer") {
  const NothingLeft nothing;
  bool done = false;
  gpu().on_own_stream([&] {
    CHECK_THROWS_WITH(gpu().capture([&] {
      put([] { FAIL("recorded, and not to be done"); });
      throw std::runtime_error("first");
    }),
                      "first");
    CHECK_FALSE(cuda::recording());
    CHECK_THROWS_WITH(gpu().capture([&] { finish(); }), Catch::Contains("CUDA error"));  // waits: the recording is spoilt
    CHECK_THROWS_WITH(gpu().capture([&] {
      CHECK_THROWS(finish());
      throw std::runtime_error("first");  // and not what its end says then
    }),
                      "first");
    CHECK_FALSE(cuda::recording());
    CHECK_THROWS_WITH(gpu().capture([&] {
      try {
        finish();
      } catch (const std::exception&) {
      }
    }),
                      Catch::Contains("CUDA error"));  // only its end says so
    CHECK_FALSE(cuda::recording());
    CHECK(cuda::graphs() == 0);
    put([&] { done = true; });
  });
  finish();
  CHECK(done);
}

TEST_CASE("cuda module: a fetched tensor is what it was when the copy was begun, and nobody waits until it is asked for") {
  const NothingLeft nothing;
  copies_beside_the_host([](const std::function<void()>& copy) { put(copy, 4); });
  const at::Tensor x = at::arange(6, at::kFloat).cuda();
  const auto waits = stand_in_counts().waits;
  std::vector<std::unique_ptr<Accelerator::Fetch>> copies;
  gpu().on_own_stream([&] {
    for (const float value : {1.f, 2.f}) {
      put([&x, value] { x.fill_(value); }, 2);
      copies.push_back(gpu().fetch(x));
    }
    put([&] { x.fill_(3); });
  });
  CHECK(stand_in_counts().waits == waits);
  CHECK(cuda::unfinished() > 4);
  CHECK(copies[0]->wait().equal(at::full({6}, 1.f)));
  CHECK(cuda::unfinished() > 0);  // only as long as it must
  const at::Tensor second = copies[1]->wait();
  CHECK(second.equal(at::full({6}, 2.f)));
  CHECK(second.is_cpu());
  CHECK(second.is_pinned());
  copies.clear();
  finish();
  CHECK(x.cpu().equal(at::full({6}, 3.f)));
}

}  // namespace assay::test

// Out of memory: what is said, for LibTorch's allocator and C++'s.
#include "trainer/grpo/memory.h"

#include <ATen/ATen.h>

#include <new>

#include "tests/catch.h"

using namespace assay::train;

namespace {

std::string said(const Batched& batched, const std::function<void()>& work) {
  try {
    within_memory(batched, work);
  } catch (const OutOfMemory& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("what cannot be allocated is said with the batch size to try") {
  assay::spec::Config config;
  config.grpo.train_batch_size = 64;
  config.grpo.mini_batch_size = 16;
  config.rollout.samples_per_prompt = 8;
  const auto petabytes = [] { at::empty({std::int64_t{1} << 50}, at::kFloat); };
  CHECK(said(sampling_at_once(config), petabytes) ==
        "out of memory while sampling 512 sequences at once (4503599627 MB more were asked for); try rollout.batch_size = 256");
  CHECK(said(updating_at_once(config), [] { throw std::bad_alloc(); }) ==
        "out of memory while updating on 16 prompts at once; try grpo.micro_batch_size = 8");
  CHECK(said(evaluating_at_once(config, 1319), petabytes).ends_with("try eval.batch_size = 659"));
  config.rollout.batch_size = 8;  // one group
  CHECK(said(sampling_at_once(config), [] { throw std::bad_alloc(); }) ==
        "out of memory while sampling 8 sequences at once; rollout.batch_size cannot be smaller: try a smaller "
        "rollout.max_response_length, or train.memory = \"lean\"");
  const auto on_a_gpu = [] {  // as its allocator says it
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of …");
  };
  CHECK(said(updating_at_once(config), on_a_gpu) ==
        "out of memory while updating on 16 prompts at once (20.00 MiB more were asked for on the GPU); try grpo.micro_batch_size = 8");
}

TEST_CASE("other errors pass as they are") {
  const Batched batched{"sampling", "rollout.batch_size", "sequences", 8, 1};
  CHECK(said(batched, [] {}) == "");
  CHECK_THROWS_AS(within_memory(batched, [] { throw std::out_of_range("x"); }), std::out_of_range);
  CHECK_THROWS_AS(within_memory(batched, [] { at::zeros({2}) + at::zeros({3}); }), c10::Error);
}

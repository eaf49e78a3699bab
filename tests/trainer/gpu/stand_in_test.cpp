// That the stand-in finds what a GPU would refuse, and what only it can count: run as gpu_stand_in_tests "[stand-in]".
#include "tests/trainer/gpu/stand_in.h"

#include <ATen/ATen.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/catch.h"
#include "tests/trainer/model/tiny.h"
#include "trainer/cuda/loader.h"

namespace assay::test {
namespace {

using namespace train;

struct Deterministic {
  Deterministic() { at::globalContext().setDeterministicAlgorithms(true, false); }
  ~Deterministic() { at::globalContext().setDeterministicAlgorithms(false, false); }
};

}  // namespace

TEST_CASE("stand-in: numbers are the CPU's", "[stand-in]") {
  const at::Tensor a = at::randn({5, 7}, generator(1)), b = at::randn({7, 3}, generator(2));
  const at::Tensor x = a.cuda(), y = b.cuda();
  CHECK(x.is_cuda());
  CHECK(at::mm(x, y).cpu().equal(at::mm(a, b)));
  CHECK(at::cat({x.t(), y}, 1).softmax(1).cpu().equal(at::cat({a.t(), b}, 1).softmax(1)));
  CHECK(x.narrow(1, 2, 3).contiguous().add_(1).cpu().equal(a.narrow(1, 2, 3) + 1));
  const at::Tensor w = x.clone().requires_grad_(true), v = a.clone().requires_grad_(true);
  at::mm(w, y).pow(2).sum().backward();  // on a thread of autograd's own
  at::mm(v, b).pow(2).sum().backward();
  CHECK(w.grad().cpu().equal(v.grad()));
}

TEST_CASE("stand-in: the host's tensors and the device's do not mix, numbers do", "[stand-in]") {
  const at::Tensor host = at::ones({3}), device = host.cuda();
  CHECK_THROWS_WITH(device + host, Catch::Matchers::Contains("to be on the same device"));
  CHECK_THROWS_WITH(at::cat({device, host}), Catch::Matchers::Contains("to be on the same device"));
  CHECK((device + at::scalar_tensor(2.0)).cpu().equal(at::full({3}, 3.0)));
}

TEST_CASE("stand-in: the host cannot read a device's memory", "[stand-in]") {
  const at::Tensor device = at::ones({3}).cuda();
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    const volatile float* p = device.const_data_ptr<float>();
    _exit(p[0] == 1 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV));
}

TEST_CASE("stand-in: a graph is not done while it is recorded, and is done on the same addresses each time", "[stand-in]") {
  Accelerator& gpu = stand_in_accelerator();
  const at::Tensor count = at::zeros({2}).cuda(), step = at::ones({2}).cuda();
  at::Tensor sum;
  const auto graph = gpu.capture([&] {
    sum = count + step;
    count.copy_(sum * 1.0);
  });
  CHECK(count.cpu().equal(at::zeros({2})));
  graph->replay();
  graph->replay();
  CHECK(count.cpu().equal(at::full({2}, 2.0)));
  CHECK(sum.cpu().equal(at::full({2}, 2.0)));
  step.fill_(10);
  graph->replay();
  CHECK(count.cpu().equal(at::full({2}, 12.0)));
}

TEST_CASE("stand-in: a graph that reads what was let go of reads no numbers", "[stand-in]") {
  Accelerator& gpu = stand_in_accelerator();
  const at::Tensor to = at::zeros({2}).cuda();
  at::Tensor from = at::ones({2}).cuda();
  const auto graph = gpu.capture([&] { to.copy_(from); });
  from = at::Tensor();
  graph->replay();
  CHECK(to.isnan().all().item<bool>());
}

TEST_CASE("stand-in: while a graph is recorded nothing may wait or be copied from or to the host", "[stand-in]") {
  Accelerator& gpu = stand_in_accelerator();
  const at::Tensor x = at::ones({3}).cuda(), on = (x > 0), host = at::ones({3});
  const std::vector<std::function<void()>> bad = {[&] { x.sum().item<float>(); },        [&] { x.cpu(); },
                                                  [&] { host.cuda(); },                  [&] { x.index({on}); },
                                                  [&] { at::nonzero(x); },               [&] { at::masked_select(x, on); },
                                                  [&] { static_cast<void>(x.equal(x)); }};
  for (const auto& work : bad) CHECK_THROWS_WITH(gpu.capture(work), Catch::Matchers::Contains("while a graph is recorded"));
  CHECK(x.sum().item<float>() == 3);  // and afterwards all is as before
}

TEST_CASE("stand-in: what is summed in no fixed order is refused in deterministic mode", "[stand-in]") {
  const Deterministic deterministic;
  const at::Tensor x = at::ones({3}).cuda();
  const at::Tensor places = at::tensor({0, 0, 1}, at::kLong).cuda();
  CHECK_THROWS_WITH(at::scatter(x, 0, places, x), Catch::Matchers::Contains("does not have a deterministic implementation"));
  CHECK(at::index_add(x, 0, places, x).cpu().equal(at::tensor({3.f, 2.f, 1.f})));
}

TEST_CASE("the host waits as often for many tokens as for few", "[stand-in]") {
  Decoder decoder = tiny_decoder();
  decoder.set_aten();
  attach_random_lora(decoder);
  if (GENERATE(false, true)) {
    auto quant = quant_config("pre", true);
    quant.tensor_scale = GENERATE("tensor", "row");
    decoder.attach_quantizers(quant, default_activation_quantizer(), 11);
  }
  decoder.move_to(open_gpu().accelerator);
  SamplerOptions options;
  options.samples_per_prompt = 3;
  options.eos_ids = {60};  // seldom drawn
  options.top_p = GENERATE(1.0, 0.9);
  const Sequences prompts = random_sequences(4, 3, 20, 8, 59);
  options.max_new_tokens = 1;
  sample(decoder, prompts, options);  // tables of positions go to the device once
  std::vector<std::int64_t> waits, captures;
  for (const std::int64_t tokens : {24, 48, 96}) {
    options.max_new_tokens = tokens;
    const StandInCounts before = stand_in_counts();
    sample(decoder, prompts, options);
    waits.push_back(stand_in_counts().waits - before.waits);
    captures.push_back(stand_in_counts().captures - before.captures);
  }
  CHECK(waits[1] == waits[0]);
  CHECK(waits[2] == waits[0]);
  CHECK(captures == std::vector<std::int64_t>{1, 1, 1});
}

}  // namespace assay::test

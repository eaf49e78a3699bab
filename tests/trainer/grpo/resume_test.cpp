// Checkpoints, and runs that go on from them.
#include <chrono>
#include <random>
#include <thread>

#include "tests/trainer/grpo/program.h"
#include "trainer/grpo/checkpoint.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/train.h"

using namespace assay;
using namespace assay::test;

namespace {

spec::Config config_of(std::int64_t steps) {
  spec::Config config = tiny_config();
  config.quant.format = "nvfp4";
  config.quant.mode = "te";
  config.grpo.filter_groups = true;  // so that steps take different numbers of problems
  config.grpo.max_num_gen_batches = 2;
  config.optimizer.weight_decay = 0.1;
  config.train.steps = steps;
  config.eval.test_freq = 3;
  config.checkpoint.every = 2;
  return config;
}

// As a kill at the very end would leave it: nothing says that the run is over.
void forget_the_end(const fs::path& run) {
  std::string kept;
  for (const auto& line : read_lines(run / "events.jsonl"))
    if (line["kind"] != "finished") kept += line.dump() + "\n";
  write_text(run / "events.jsonl", kept);
  fs::remove_all(run / "adapter");
}

std::string refusal(const fs::path& run, bool resume) {
  try {
    train::train(run, {.resume = resume});
  } catch (const train::BadInput& error) {
    return error.what();
  }
  return "";
}

std::vector<std::string> checkpoints(const fs::path& run) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void check_the_same(const fs::path& a, const fs::path& b) {
  CHECK(metrics_of(a) == metrics_of(b));
  CHECK(read_text(a / "adapter/adapter_model.safetensors") == read_text(b / "adapter/adapter_model.safetensors"));
  for (const auto* folder : {"eval", "samples"})
    for (const auto& entry : fs::directory_iterator(a / folder)) {
      INFO(entry.path());
      CHECK(read_text(entry.path()) == read_text(b / folder / entry.path().filename()));
    }
}

}  // namespace

TEST_CASE("a run killed 20 times, at random moments, is the run that never was") {
  constexpr int kills = 20;
  const auto config = config_of(24);
  const auto whole = make_run("resume-whole", config), killed = make_run("resume-killed", config);
  REQUIRE(train::train(whole) == train::exit_finished);

  std::mt19937 random(20261125);
  const auto lines = [&] { return fs::exists(killed / "metrics.jsonl") ? lines_in(read_text(killed / "metrics.jsonl")) : 0; };
  int ended = 0;
  for (int i = 0; i < kills; ++i) {
    Program program("resume-" + std::to_string(i), {"run", "--resume", killed.string()});
    // A few lines further, and into whatever comes then: a step, an evaluation, a checkpoint, or the loading of the model.
    const auto wanted = lines() + random() % 4;
    const auto pause = std::chrono::microseconds(random() % 40000);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (lines() < wanted && !fs::exists(killed / "adapter") && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::this_thread::sleep_for(pause);
    const int signal = i % 4 == 3 ? SIGTERM : SIGKILL;
    kill(program.pid(), signal);
    const Result result = program.wait();
    INFO(i << ": " << result.err);
    // SIGTERM before the handler is there ends it as SIGKILL does; both may come when the run is over.
    CHECK((result.code == 128 + signal || (signal == SIGTERM && result.code == 5) || result.code == 0));
    ended += result.code != 0;
  }
  CHECK(ended > kills / 2);
  const Result last = run_program("resume-last", {"run", "--resume", killed.string()});
  INFO(last.err);
  REQUIRE(last.code == 0);

  check_the_same(whole, killed);
  std::set<std::string> kinds;
  for (const auto& event : read_lines(killed / "events.jsonl")) {
    kinds.insert(event["kind"]);
    if (event["kind"] == "finding") CHECK(event["data"]["id"] != "replay-differs");
  }
  CHECK(kinds.contains("resumed"));
  CHECK(event_kinds(killed).back() == "finished");
  // A finished run stays as it is.
  const std::string before = read_text(killed / "metrics.jsonl");
  CHECK(run_program("resume-again", {"run", "--resume", killed.string()}).code == 0);
  CHECK(read_text(killed / "metrics.jsonl") == before);
}

TEST_CASE("checkpoint.* says which checkpoints are written and kept") {
  auto config = config_of(8);
  const auto run = make_run("checkpoint-kept", config);
  REQUIRE(train::train(run) == train::exit_finished);
  double best = -1;
  std::string best_step;
  for (int step : {0, 3, 6, 8}) {
    const std::string number = std::to_string(step);
    const double accuracy = json::parse(read_text(run / ("eval/step-00000" + number + ".json")))["accuracy"];
    if (accuracy > best) best = accuracy, best_step = "step-00000" + number;
  }
  std::set<std::string> expected{"step-000006", "step-000008", best_step};
  CHECK(checkpoints(run) == std::vector<std::string>(expected.begin(), expected.end()));

  config.checkpoint = {.every = 3, .keep_last = 1, .keep_best = false};
  const auto one = make_run("checkpoint-one", config);
  REQUIRE(train::train(one) == train::exit_finished);
  CHECK(checkpoints(one) == std::vector<std::string>{"step-000006"});
  config.checkpoint.every = 0;
  const auto none = make_run("checkpoint-none", config);
  REQUIRE(train::train(none) == train::exit_finished);
  CHECK_FALSE(fs::exists(none / "checkpoints"));
  check_the_same(one, none);

  forget_the_end(none);
  CHECK_THAT(refusal(none, true), Catch::Contains("no checkpoint") && Catch::Contains("never used twice"));
  forget_the_end(one);
  CHECK_THAT(refusal(one, false), Catch::Contains("never used twice") && Catch::Contains("--resume"));
}

TEST_CASE("a damaged checkpoint is refused, and the one before it named") {
  const auto config = config_of(6);
  const auto whole = make_run("damaged-whole", config), run = make_run("damaged", config);
  REQUIRE(train::train(whole) == train::exit_finished);
  REQUIRE(train::train(run) == train::exit_finished);
  forget_the_end(run);
  const auto newest = run / "checkpoints/step-000006";
  for (const auto* file : {"optimizer.safetensors", "adapter_model.safetensors", "checkpoint.json", "SHA256SUMS"}) {
    INFO(file);
    const std::string sound = read_text(newest / file);
    std::string damaged = sound;
    damaged[damaged.size() / 2] ^= 1;
    write_text(newest / file, damaged);
    CHECK_THAT(refusal(run, true), Catch::Contains("step-000006") && Catch::Contains("damaged") && Catch::Contains(file) &&
                                       Catch::Contains("go on from step-000004"));
    write_text(newest / file, sound);
  }
  fs::remove(newest / "optimizer.safetensors");
  CHECK_THAT(refusal(run, true), Catch::Contains("damaged"));
  CHECK_FALSE(fs::exists(run / "adapter"));

  fs::remove_all(newest);  // as the sentence says
  REQUIRE(train::train(run, {.resume = true}) == train::exit_finished);
  check_the_same(whole, run);

  forget_the_end(run);
  for (const auto& name : checkpoints(run)) write_text(run / "checkpoints" / name / "checkpoint.json", "{}");
  CHECK_THAT(refusal(run, true), Catch::Contains("none before it"));
}

TEST_CASE("a checkpoint belongs to its config, and a run to one process") {
  auto config = config_of(2);
  const auto run = make_run("checkpoint-config", config);
  REQUIRE(train::train(run) == train::exit_finished);
  forget_the_end(run);
  {
    const train::MetricsLog other(run);
    CHECK_THAT(refusal(run, true), Catch::Contains("another process"));
  }
  config.optimizer.lr *= 2;
  write_text(run / "config.json", spec::canonical_json(config));
  CHECK_THAT(refusal(run, true), Catch::Contains("another config.json"));
}

TEST_CASE("values that differ when steps are computed again become a finding") {
  const auto run = make_run("replay-differs", config_of(3));
  REQUIRE(train::train(run) == train::exit_finished);
  forget_the_end(run);
  fs::remove_all(run / "checkpoints/step-000003");
  std::string lines;
  for (auto line : read_lines(run / "metrics.jsonl")) {
    if (line["step"] == 3 && line["metrics"].contains("actor/grad_norm")) line["metrics"]["actor/grad_norm"] = 77;
    lines += line.dump() + "\n";
  }
  write_text(run / "metrics.jsonl", lines + "{\"step\": 3, \"met");  // and a torn line
  REQUIRE(train::train(run, {.resume = true}) == train::exit_finished);
  std::vector<json> keys;
  for (const auto& event : read_lines(run / "events.jsonl"))
    if (event["kind"] == "finding" && event["data"]["id"] == "replay-differs") keys.push_back(event["data"]["keys"]);
  CHECK(keys == std::vector<json>{json::array({"actor/grad_norm"})});
  CHECK_THAT(read_text(run / "metrics.jsonl"), Catch::Contains("\n                \n{") && !Catch::Contains("\"met\n"));
}

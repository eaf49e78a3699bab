// assay-train as a program: exit codes, signals, what it prints.
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "tests/trainer/grpo/program.h"

using namespace assay;
using namespace assay::test;

TEST_CASE("run prints a line per step and exits with 0") {
  const auto run = make_run("program-run", tiny_config());
  const auto result = run_program("run", {"run", run.string()});
  INFO(result.err);
  CHECK(result.code == 0);
  CHECK(lines_in(result.out) == 6);  // 3 steps, 3 evaluations
  CHECK_THAT(result.out, Catch::Contains("step 3 of 3: score"));
  CHECK(event_kinds(run).back() == "finished");
}

TEST_CASE("run --json prints what it logs") {
  const auto run = make_run("program-run-json", tiny_config());
  const auto result = run_program("run-json", {"run", "--json", run.string()});
  CHECK(result.code == 0);
  CHECK(result.out == read_text(run / "metrics.jsonl"));
}

TEST_CASE("run --profile says where the time went, and leaves a trace") {
  auto config = tiny_config();
  config.quant.format = "mxfp4";
  config.quant.mode = "floor";
  const auto plain = make_run("program-plain", config), run = make_run("program-profile", config);
  CHECK(run_program("plain", {"run", plain.string()}).code == 0);
  const auto result = run_program("profile", {"run", "--profile", run.string()});
  REQUIRE(result.code == 0);
  for (const auto* name : {"time of 3 steps", "rollout", "prefill", "decode", "sampling", "old log-probs", "forward", "backward",
                           "optimizer", "quantization", "evaluation", "checkpoint"})
    CHECK_THAT(result.out, Catch::Contains(name));
  const auto trace = json::parse(read_text(run / "trace.json"));
  std::map<std::string, int> spans;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++spans[event["name"]];
    CHECK(event["dur"].get<double>() >= 0);
  }
  CHECK(spans["rollout"] == 3);
  CHECK(spans["update"] == 3);
  CHECK(spans["forward"] == 6);   // two mini-batches a step
  CHECK(spans["backward"] == 6);
  CHECK(spans["optimizer"] == 6);
  CHECK(metrics_of(run) == metrics_of(plain));
}

TEST_CASE("SIGTERM ends a run cleanly") {
  auto config = tiny_config();
  config.train.steps = 100000;
  config.eval.test_freq = 100000;
  const auto run = make_run("program-term", config);
  Program program("term", {"run", run.string()});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!fs::exists(run / "metrics.jsonl") || lines_in(read_text(run / "metrics.jsonl")) < 2) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  kill(program.pid(), SIGTERM);
  CHECK(program.wait().code == 5);
  CHECK(event_kinds(run).back() == "terminated");
  CHECK_FALSE(fs::exists(run / "adapter"));
  for (const auto& line : read_lines(run / "metrics.jsonl")) CHECK(line.contains("metrics"));  // no torn line
}

TEST_CASE("refusals are one sentence on stderr and exit code 3") {
  const auto nowhere = run_program("nowhere", {"run", "/nonexistent/folder"});
  CHECK(nowhere.code == 3);
  CHECK(lines_in(nowhere.err) == 1);
  const auto run = make_run("program-bad-model", tiny_config());
  write_tiny_model(run / "model", [](const std::string& name, at::Tensor tensor) {
    if (name == "model.norm.weight") tensor.fill_(std::numeric_limits<float>::quiet_NaN());
  });
  const auto nan = run_program("nan", {"run", run.string()});
  CHECK(nan.code == 3);
  CHECK(lines_in(nan.err) == 1);
  CHECK_THAT(nan.err, Catch::Contains("model.norm.weight"));

  // Files of different models put together, and sizes that do not fit.
  const auto refused = [](const std::string& name, const spec::Config& config, const std::string& word,
                          const std::function<void(const fs::path&)>& spoil = {}) {
    const auto folder = make_run("program-" + name, config);
    if (spoil) spoil(folder);
    const auto seen = run_program(name, {"run", folder.string()});
    INFO(seen.err);
    CHECK(seen.code == 3);
    CHECK(lines_in(seen.err) == 1);
    CHECK_THAT(seen.err, Catch::Contains(word));
  };
  refused("vocabulary", tiny_config(), "tokenizer.json has ids up to 60, and config.json says vocab_size = 48", [](const fs::path& at) {
    auto tokenizer = tiny_tokenizer();
    auto more = tokenizer["added_tokens"].back();
    more["id"] = 60;
    more["content"] = "more";
    tokenizer["added_tokens"].push_back(more);
    write_text(at / "model/tokenizer.json", tokenizer.dump());
  });
  refused("weights", tiny_config(), "model.embed_tokens.weight has shape [48, 32], config.json asks for [50, 32]", [](const fs::path& at) {
    auto shape = json::parse(read_text(at / "model/config.json"));
    shape["vocab_size"] = 50;
    write_text(at / "model/config.json", shape.dump());
  });
  refused("empty", tiny_config(), "train.jsonl: there are no problems in it", [](const fs::path& at) { write_text(at / "train.jsonl", "\n"); });
  auto sizes = tiny_config();
  sizes.rollout.max_prompt_length = 8;
  refused("long-prompt", sizes, "train.jsonl:1: the prompt has 13 tokens and rollout.max_prompt_length is 8", {});
  sizes = tiny_config();
  sizes.rollout.max_response_length = 120;
  refused("positions", sizes, "more than the model's 128 positions", {});

  if (geteuid() == 0) {
    report_skipped("a run folder that cannot be written, by permission", "root may write anywhere");
  } else {
    const auto locked = make_run("program-locked", tiny_config());
    fs::permissions(locked, fs::perms::owner_read | fs::perms::owner_exec);
    const auto result = run_program("locked", {"run", locked.string()});
    fs::permissions(locked, fs::perms::owner_all);
    CHECK(result.code == 3);
  }
  // For everybody: a folder stands where the log would be.
  const auto blocked = make_run("program-blocked", tiny_config());
  fs::create_directories(blocked / "events.jsonl");
  const auto result = run_program("blocked", {"run", blocked.string()});
  CHECK(result.code == 3);
  CHECK_THAT(result.err, Catch::Contains("cannot be written"));
}

TEST_CASE("the command line") {
  CHECK(run_program("help", {"--help"}).code == 0);
  CHECK(run_program("none", {}).code == 2);
  CHECK(run_program("verb", {"fly"}).code == 2);
  CHECK(run_program("argument", {"run"}).code == 2);
  CHECK(run_program("scorer", {"score", "--scorer", "kind"}).code == 2);
}

TEST_CASE("score answers line by line, and a bad line does not end it") {
  const auto result = run_program("score", {"score", "--scorer", "verl"},
                                  "{\"completion\": \"#### 72\", \"answer\": \"72\"}\n"
                                  "{\"completion\": \"#### 72.\", \"answer\": \"so\\n#### 72\"}\n"
                                  "oops\n"
                                  "{\"completion\": 3, \"answer\": \"72\"}\n"
                                  "{\"completion\": \"no\", \"answer\": \"72\"}\n");
  CHECK(result.code == 0);
  std::vector<json> lines;
  std::stringstream text(result.out);
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
  REQUIRE(lines.size() == 5);
  CHECK((lines[0]["score"] == 1.0 && lines[0]["outcome"] == "correct"));
  CHECK((lines[1]["score"] == 0.0 && lines[1]["outcome"] == "wrong"));
  CHECK(lines[2].contains("error"));
  CHECK(lines[3].contains("error"));
  CHECK(lines[4]["outcome"] == "unparsable");
}

TEST_CASE("doctor: exit code 6 on an error, the document in the run folder") {
  auto config = tiny_config();
  config.quant.format = "nvfp4";
  config.quant.mode = "te";
  config.quant.hook = "post";
  config.quant.ste = false;
  const auto bad = make_run("program-doctor-bad", config);
  const auto result = run_program("doctor-bad", {"doctor", bad.string()});
  CHECK(result.code == 6);
  CHECK_THAT(result.out, Catch::Contains("straight-through estimator"));
  CHECK(json::parse(read_text(bad / "doctor.json"))["gradients"]["with_gradient"] == 0);

  config.quant.hook = "pre";
  config.quant.ste = true;
  const auto good = make_run("program-doctor-good", config);
  const auto clean = run_program("doctor-good", {"doctor", (good / "config.json").string(), "--json"});
  CHECK(clean.code == 0);
  CHECK(json::parse(clean.out)["gradients"]["with_gradient"] == 28);
  CHECK_FALSE(fs::exists(good / "doctor.json"));
}

TEST_CASE("doctor --jobs: a process for each config, and how each ended") {
  auto config = tiny_config();
  const auto good = make_run("program-doctor-each-good", config), broken = make_run("program-doctor-each-broken", config);
  config.quant.format = "nvfp4";
  config.quant.mode = "te";
  config.quant.hook = "post";
  config.quant.ste = false;
  const auto bad = make_run("program-doctor-each-bad", config);
  support::write_file_atomically(broken / "config.json", "{");
  const auto result = run_program("doctor-each", {"doctor", (good / "config.json").string(), bad.string(),
                                                  (broken / "config.json").string(), "--json", "--jobs", "2"});
  CHECK(result.code == 0);
  std::istringstream lines(result.out);
  std::map<int, int> codes;
  for (int index = 0, code = 0; lines >> index >> code;) codes[index] = code;
  CHECK(codes == std::map<int, int>{{0, 0}, {1, 6}, {2, 3}});
  CHECK(json::parse(read_text(good / "stdout.log"))["gradients"]["with_gradient"] == 28);
  CHECK(json::parse(read_text(bad / "stdout.log"))["gradients"]["with_gradient"] == 0);
  CHECK(json::parse(read_text(bad / "doctor.json")) == json::parse(read_text(bad / "stdout.log")));
  CHECK_THAT(read_text(broken / "stderr.log"), Catch::Contains("config.json"));
  CHECK(run_program("doctor-each-none", {"doctor", good.string(), bad.string()}).code == 2);
}

TEST_CASE("eval of a run folder uses the adapter that was trained") {
  const auto run = make_run("program-eval", tiny_config());
  REQUIRE(run_program("eval-run", {"run", run.string()}).code == 0);
  const auto result = run_program("eval", {"eval", run.string(), "--json"});
  REQUIRE(result.code == 0);
  const auto whole = json::parse(read_text(run / "eval/step-000003.json"));
  const auto again = json::parse(result.out);
  CHECK(again["adapter"] == true);
  CHECK(again["correct"] == whole["correct"]);
  CHECK(again["format_right"] == whole["format_right"]);

  const auto merged = run / "merged";
  const auto merge = run_program("merge", {"merge", run.string(), merged.string(), "--json"});
  INFO(merge.err);
  REQUIRE(merge.code == 0);
  CHECK(json::parse(merge.out)["merged"] == 14);
  CHECK(fs::exists(merged / "tokenizer.json"));
  CHECK(run_program("merge-twice", {"merge", run.string(), merged.string()}).code == 3);
  CHECK(run_program("merge-peft", {"merge", run.string(), (run / "peft").string(), "--peft"}).code == 0);
  fs::remove_all(run / "adapter");
  const auto early = run_program("merge-early", {"merge", run.string(), (run / "early").string()});
  CHECK(early.code == 3);
  CHECK_THAT(early.err, Catch::Contains("there is no adapter in it"));
}

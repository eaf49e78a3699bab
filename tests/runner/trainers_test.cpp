// Trainers of other people: argument templates, the environment contract, and metrics out of their consoles.
#include <cmath>

#include "home.h"
#include "runner/console_tail.h"

using namespace assay;
using namespace assay::test;

namespace {

// A series of one run whose program is /bin/sh SCRIPT and the given further arguments, written as in TOML.
void one_run(const Home& home, const std::string& id, const std::string& script, const std::string& arguments,
             const std::string& more) {
  const fs::path file = home.folder / "scripts" / (id + ".sh");
  spill(file, script);
  spill(home.folder / "series" / (id + ".toml"),
        "[series]\nid = \"" + id + "\"\n[base.quant]\nformat = \"mxfp4\"\n[base.trainer]\nkind = \"command\"\nargv = [\"/bin/sh\", \"" +
            file.string() + "\"" + arguments + "]\n" + more + "\n[[run]]\nid = \"a\"\n");
}

double metric(const Home& home, std::int64_t run, std::int64_t step, const std::string& key) {
  for (const registry::MetricPoint& point : home.registry().metrics(run, key))
    if (point.step == step) return point.value;
  FAIL("no " << key << " at step " << step);
  return 0;
}

}  // namespace

TEST_CASE("a shell script gets its arguments from the resolved configuration and its place from the environment") {
  const Home home("template");
  one_run(home, "t",
          "printf '%s\\n' \"$@\" > \"$ASSAY_RUN_DIR/arguments\"\n"
          "echo \"{\\\"step\\\": 1, \\\"metrics\\\": {\\\"rank\\\": $ASSAY_RANK, \\\"world\\\": $ASSAY_WORLD_SIZE}}\" >> \"$ASSAY_METRICS\"\n"
          "test \"$ASSAY_CONFIG\" = \"$ASSAY_RUN_DIR/config.json\" && test \"$ASSAY_ATTEMPT\" = 1 && test \"$ASSAY_SEED\" = 7",
          R"(, "format={quant.format}", "{optimizer.lr}", "ste={quant.ste}", "{lora.targets}", "{run_dir}", "{seed}", "{ print $1 }", "${HOME}", "{}")",
          "");
  CHECK(home.assay({"run", "t", "--seeds", "7"}).code == 0);
  const std::string folder = home.run(1).folder;
  CHECK(slurp(fs::path(folder) / "arguments") ==
        "format=mxfp4\n1e-05\nste=true\nq_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj\n" + folder +
            "\n7\n{ print $1 }\n${HOME}\n{}\n");
  CHECK(metric(home, 1, 1, "world") == 1);
}

TEST_CASE("a place that names no key, and what does not go together, is refused where it stands") {
  const Home home("template-bad");
  one_run(home, "t", "true", R"(, "{quant.fromat}")", "");
  Result refused = home.assay({"add", "t"});
  CHECK(refused.code == 3);
  CHECK_THAT(refused.err, Catch::Contains("t.toml:7:1: trainer.argv: '{quant.fromat}' names no key; did you mean"));
  one_run(home, "u", "true", "", "metrics = \"regex\"");
  CHECK_THAT(home.assay({"add", "u"}).err, Catch::Contains("needs trainer.metrics_regex"));
  one_run(home, "v", "true", "", "metrics = \"regex\"\nmetrics_regex = \"loss\"");
  CHECK_THAT(home.assay({"add", "v"}).err, Catch::Contains("no named group"));
  one_run(home, "w", "true", "", "metrics_regex = \"(?<loss>x)\"");
  CHECK_THAT(home.assay({"add", "w"}).err, Catch::Contains("belongs to trainer.metrics = \"regex\""));
}

TEST_CASE("verl's console becomes metrics, with the accuracy shown") {
  const Home home("verl");
  one_run(home, "v",
          "printf '\\033[36m(TaskRunner pid=1)\\033[0m step:0 - val-core/openai/gsm8k/acc/mean@1:np.float64(0.25)\\n'\n"
          "printf 'Training:  50%%|#  | 1/2\\rstep:1 - critic/score/mean:0.5 - actor/grad_norm:nan\\n' >&2\n"
          "printf 'step:2 - critic/score/mean:0.75 - val-core/openai/gsm8k/acc/mean@1:0.5\\n'\n"
          "printf 'step:3 - critic/score/mean:0.9'\n",
          "", "metrics = \"verl\"");
  CHECK(home.assay({"run", "v"}).code == 0);
  CHECK(metric(home, 1, 1, "critic/score/mean") == 0.5);
  CHECK(std::isnan(metric(home, 1, 1, "actor/grad_norm")));
  CHECK(metric(home, 1, 2, "critic/score/mean") == 0.75);
  CHECK(home.registry().progress(1).accuracy == 0.5);
  CHECK(home.registry().progress(1).step == 2);   // the tail was cut off: its value is not believed
}

TEST_CASE("a TRL-shaped script and a pattern of the user's") {
  const Home home("trl");
  one_run(home, "t",
          "echo \"{'loss': 1.5, 'grad_norm': 0.1, 'learning_rate': 1e-05, 'epoch': 0.5}\"\n"
          "echo \"{'loss': '1.25', 'epoch': 1.0}\"\necho \"{'eval_loss': 1.0}\"\necho \"{'train_runtime': 3.2}\"",
          "", "metrics = \"trl\"");
  CHECK(home.assay({"run", "t"}).code == 0);
  CHECK(metric(home, 1, 2, "loss") == 1.25);
  CHECK(metric(home, 1, 2, "eval_loss") == 1.0);
  one_run(home, "r", "echo 'iter 4: loss 0.5, acc 91'", "",
          "metrics = \"regex\"\nmetrics_regex = 'iter (?<step>\\d+): loss (?<train__loss>\\S+), acc (?<acc>\\d+)'");
  // The comma belongs to the text: what is no number is not made one.
  CHECK(home.assay({"run", "r"}).code == 0);
  CHECK(metric(home, 2, 4, "acc") == 91);
}

TEST_CASE("a console that never matches is said: as an event, in the run's end, and in status while it runs") {
  const Home home("no-match");
  one_run(home, "v", "i=0; while [ $i -lt 300 ]; do echo \"loss $i\"; i=$((i+1)); done; while [ ! -e '" +
                         (home.folder / "gate").string() + "' ]; do sleep 0.05; done", "", "metrics = \"verl\"");
  REQUIRE(home.assay({"add", "v"}).code == 0);
  const std::string words = "lines of its console is one that trainer.metrics = \"verl\" reads";
  REQUIRE(eventually([&] { return home.assay({"status"}).out.find("running: none of the ") != std::string::npos; }));
  spill(home.folder / "gate", "");
  CHECK(home.assay({"wait", "1"}).code == 4);
  CHECK(home.state(1) == "failed");
  CHECK_THAT(home.run(1).state.detail, Catch::Contains(words));
  int findings = 0;
  for (const registry::Event& event : home.registry().events(1)) findings += event.kind == "finding";
  CHECK(findings == 1);
}

TEST_CASE("progress read from the console keeps the stall watchdog quiet") {
  const Home home("console-stall");
  one_run(home, "v", "for i in 1 2 3 4 5 6 7 8; do echo \"step:$i - a:1\"; sleep 0.4; done", "",
          "metrics = \"verl\"\n[base.schedule]\nstall_timeout = 2");
  CHECK(home.assay({"run", "v"}).code == 0);
  CHECK(home.registry().progress(1).step == 8);
}

TEST_CASE("e13-scripts: a script per run with its overrides, around a stand-in for verl that prints what verl prints") {
  Home home("e13-scripts");
  spill(home.folder / "python", "#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$ASSAY_RUN_DIR/arguments\"\n"
                                "echo 'step:0 - val-core/openai/gsm8k/acc/mean@1:0.08'\n"
                                "echo 'step:20 - critic/score/mean:0.6 - val-core/openai/gsm8k/acc/mean@1:np.float64(0.6)'\n");
  fs::permissions(home.folder / "python", fs::perms::owner_all);
  home.environment["VERL_PYTHON"] = (home.folder / "python").string();
  home.environment["ASSAY_GPUS"] = "0";
  home.environment["ASSAY_EXPERIMENTS"] = source("experiments").string();
  CHECK(home.assay({"run", "e13-scripts"}).code == 0);
  REQUIRE(home.registry().runs({}).size() == 5);
  for (const registry::RunRow& row : home.registry().runs({})) {
    const std::string arguments = slurp(fs::path(row.folder) / "arguments");
    CAPTURE(row.run, arguments);
    CHECK_THAT(arguments, Catch::StartsWith("-m\nverl.trainer.main_ppo\n"));
    CHECK_THAT(arguments, Catch::Contains("trainer.default_local_dir=" + row.folder + "/checkpoints\n"));
    CHECK_THAT(arguments, Catch::Contains(row.run == "e13h-mxfp4" ? "+quant.format=mxfp4\n" : "+quant.format=nvfp4\n"));
    CHECK(home.registry().progress(row.number).accuracy == 0.6);
  }
}

TEST_CASE("a console longer than a piece, with a line longer than that, torn at every place") {
  const fs::path folder = fresh_folder("r-console-tail");
  runner::ConsoleTail tail(folder, "verl", "");
  std::ofstream out(folder / "stdout.log", std::ios::binary);
  std::string text;
  for (int step = 1; step <= 40; ++step) text += "step:" + std::to_string(step) + " - a:" + std::to_string(step) + "\n";
  for (const char c : text) {
    out << c << std::flush;
    tail.poll();
  }
  out << std::string(3 << 20, 'x') << std::flush;
  tail.poll();
  out << "step:41 - a:41\nstep:42 - a:42\n" << std::flush;
  tail.poll();
  tail.finish();
  std::istringstream lines(slurp(folder / "metrics.jsonl"));
  std::vector<std::int64_t> steps;
  for (std::string line; std::getline(lines, line);) {
    const json object = json::parse(line);
    steps.push_back(object.at("step"));
    CHECK(object.at("metrics").at("a") == object.at("step"));
  }
  REQUIRE(steps.size() == 41);   // the one behind the long line is a part of it
  CHECK(steps.back() == 42);
  CHECK_FALSE(fs::exists(folder / "events.jsonl"));
}

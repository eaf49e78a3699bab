// What the commands print, and what they end with.
#include <pty.h>

#include "home.h"

using namespace assay;
using namespace assay::test;

namespace {

bool has_control_characters(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n'; });
}

// A trainer that evaluates at step 0 and 2, as the embedded one does.
const char* const kEvaluating =
    "mkdir -p eval 2>/dev/null; cd \"$ASSAY_RUN_DIR\"; mkdir -p eval\n"
    "evaluation() { printf '{\"index\":0,\"outcome\":\"correct\"}\\n{\"index\":1,\"outcome\":\"'$2'\"}\\n' > eval/step-$1.jsonl\n"
    "  echo '{\"step\":'$1',\"problems\":2,\"correct\":'$3',\"quant\":\"none\",\"trained_quant\":\"none\",\"data_sha256\":\"d\"}' > eval/tmp\n"
    "  mv eval/tmp eval/step-$1.json; }\n"
    "evaluation 0 wrong 1; metric 0; metric 1; metric 2; evaluation 2 correct 2";

}  // namespace

TEST_CASE("run: plain lines when not on a terminal, the table on stdout, exit code by success") {
  const Home home("run");
  home.series("s", {{"a", kEvaluating}, {"bad", "metric 1; exit 1"}}, "\"train.steps\" = 2");
  const Result good = home.assay({"run", "s", "--only", "a"});
  CHECK(good.code == 0);
  CHECK_FALSE(has_control_characters(good.out + good.err));
  CHECK_THAT(good.err, Catch::Contains("1 a s1: started\n") &&
                           Catch::Contains("1 a s1: step 0 of 2, accuracy 50.0 % (1 of 2)\n") &&
                           Catch::Contains("1 a s1: step 2 of 2, accuracy 100.0 % (2 of 2)\n") &&
                           Catch::Contains("1 a s1: succeeded, accuracy 100.0 %, after "));
  CHECK_THAT(good.out, Catch::StartsWith("|"));
  const Result bad = home.assay({"run", "s", "--json"});
  CHECK(bad.code == 4);
  CHECK_NOTHROW(json::parse(bad.out));
  const auto rows = home.registry().evaluations(1, true);
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].correct == 2);
  CHECK(rows[0].outcomes.at(1).outcome == "wrong");
}

TEST_CASE("compare: the latest run of each id and seed; Markdown, CSV, JSON") {
  const Home home("compare");
  home.series("s", {{"a", kEvaluating}, {"b", kEvaluating}}, "\"train.steps\" = 2");
  REQUIRE(home.assay({"run", "s", "--seeds", "1,2"}).code == 0);
  REQUIRE(home.assay({"run", "s", "--only", "a"}).code == 0);
  CHECK_THAT(home.assay({"compare", "s"}).out, Catch::Contains("| a") && Catch::Contains("| b"));
  const json all = json::parse(home.assay({"compare", "s", "--json"}).out);
  CHECK_FALSE(all.empty());
  const std::string csv = home.assay({"compare", "s", "--csv", "--seed", "1"}).out;
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 3);
  CHECK(home.assay({"compare", "s", "--seed", "9"}).code == 5);
  CHECK(home.assay({"compare", "s", "--baseline", "b", "--steps", "0,2"}).code == 0);
  REQUIRE(home.assay({"tag", "b", "excluded", "--why", "wrong data"}).code == 0);
  CHECK_THAT(home.assay({"compare", "s"}).out, Catch::Contains("excluded") && Catch::Contains("wrong data"));
  CHECK_THAT(home.assay({"compare", "s", "--only-changed"}).out, Catch::Contains("excluded"));
}

TEST_CASE("follow: JSON a line, and Ctrl-C leaves the runs running and says so") {
  const Home home("follow");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  const pid_t follower = home.start({"follow", "a"}, "follower");
  REQUIRE(eventually([&] { return slurp(home.folder / "follower.out").find("started") != std::string::npos; }));
  REQUIRE(::kill(follower, SIGINT) == 0);
  const Result interrupted = home.finish(follower, "follower");
  CHECK(interrupted.code == 130);
  CHECK(one_sentence(interrupted.err));
  CHECK_THAT(interrupted.err, Catch::Contains("the runs go on"));
  CHECK(home.state(1) == "running");
  const pid_t other = home.start({"follow", "1", "--json"}, "other");
  home.open_gate("go");
  const Result ended = home.finish(other, "other");
  CHECK(ended.code == 0);
  std::istringstream lines(ended.out);
  json last;
  for (std::string line; std::getline(lines, line);) last = json::parse(line);
  CHECK(last.at("state") == "succeeded");
  CHECK(last.at("step") == 1);
}

TEST_CASE("follow goes on when the daemon is killed under it") {
  const Home home("follow-kill");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go"}});
  const pid_t runner = home.start({"run", "s"}, "runner");
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  home.kill_daemon();
  REQUIRE(eventually([&] { return home.daemon_pid().has_value(); }));   // `run` itself starts the next one
  home.open_gate("go");
  CHECK(home.finish(runner, "runner").code == 0);
}

TEST_CASE("on a terminal: redrawn in place, colour as asked for") {
  const Home home("terminal");
  home.series("s", {{"a", "metric 1; gate go; metric 2"}, {"b", "metric 1; gate go"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  for (const std::string color : {"auto", "never"}) {
    int master = -1;
    winsize size{24, 60, 0, 0};
    const pid_t child = ::forkpty(&master, nullptr, nullptr, &size);
    REQUIRE(child >= 0);
    if (child == 0) {
      for (const auto& [variable, value] : home.environment) ::setenv(variable.c_str(), value.c_str(), 1);
      ::unsetenv("NO_COLOR");
      ::execl(Home::program().c_str(), "assay", "follow", "1", "2", "--color", color.c_str(), nullptr);
      ::_exit(126);
    }
    std::string seen;
    char buffer[4096];
    const auto read_some = [&] {
      const ssize_t n = ::read(master, buffer, sizeof buffer);
      if (n > 0) seen.append(buffer, static_cast<std::size_t>(n));
      return n > 0;
    };
    while (seen.find("running") == std::string::npos && seen.find("succeeded") == std::string::npos && read_some()) {
    }
    home.open_gate("go");
    while (read_some()) {
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    ::close(master);
    CAPTURE(color, seen);
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(seen.find("\x1b[2K") != std::string::npos);
    CHECK((seen.find("\x1b[32m") != std::string::npos) == (color == "auto"));
    if (color == "auto") CHECK(seen.find("\x1b[3A") != std::string::npos);   // back over the head and two runs
  }
}

TEST_CASE("logs") {
  const Home home("logs");
  home.series("s", {{"a", "echo out; echo err >&2; metric 1"}});
  REQUIRE(home.assay({"run", "s"}).code == 0);
  CHECK(home.assay({"logs", "a"}).out == "out\n");
  CHECK(home.assay({"logs", "1", "--stderr"}).out == "err\n");
  CHECK(json::parse(home.assay({"logs", "s/a", "--json"}).out).at("text") == "out\n");
}

TEST_CASE("bad command lines and bad input: one sentence, its own exit code") {
  const Home home("bad");
  home.series("s", {{"a", "metric 1"}, {"b", "metric 1"}});
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::string& contains) {
    const Result result = home.assay(arguments);
    CHECK(result.code == code);
    CHECK(one_sentence(result.err));
    CHECK_THAT(result.err, Catch::Contains(contains));
  };
  refused({"rnu", "s"}, 2, "did you mean 'run'");
  refused({"run"}, 2, "assay run --help");
  refused({"run", "s", "--nonsense"}, 2, "--nonsense");
  refused({"run", "nosuchseries"}, 3, "nosuchseries");
  refused({"run", "s", "--only", "c"}, 3, "it has a, b");
  refused({"add", "s", "--set", "optimizer"}, 2, "KEY=VALUE");
  refused({"add", "s", "--set", "optimizer.lrr=1"}, 3, "optimizer.lr");
  refused({"add", "s", "--label", "x"}, 2, "KEY=VALUE");
  refused({"add", "s", "--after", "99"}, 5, "99");
  refused({"kill", "99"}, 5, "there is none");
  refused({"logs", "nothing"}, 5, "nothing");
  refused({"doctor", "s"}, 3, "program of its own");
  CHECK(home.registry().runs({}).empty());

  spill(home.folder / "work" / "syntax.toml", "[series\n");
  refused({"run", "syntax.toml"}, 3, "syntax.toml:1:");
  spill(home.folder / "work" / "two.toml", "[series]\nid = \"two\"\ncolour = 1\n[base.trainer]\nkind = \"command\"\n"
                                           "argv = [\"true\"]\n[[run]]\nid = \"a\"\nhypothesi = \"x\"\n");
  const Result two = home.assay({"run", "two.toml"});
  CHECK(two.code == 3);
  CHECK(std::count(two.err.begin(), two.err.end(), '\n') == 2);
  CHECK_THAT(two.err, Catch::Contains("two.toml:3:") && Catch::Contains("two.toml:9:"));
  CHECK(home.assay({"--help"}).code == 0);
  CHECK_THAT(home.assay({"--version"}).out, Catch::StartsWith("assay "));
}

TEST_CASE("a model or data that the trainer refuses: said before anything is queued") {
  const Home home("bad-input");
  const fs::path shipped = source("experiments/e13/model"), model = home.folder / "model";
  fs::copy(shipped, model);
  const auto refused = [&](const std::string& setting, const std::string& contains) {
    const Result result = home.assay({"run", "e13", "--only", "bf16,e13g-nvfp4", "--set", setting});
    CHECK(result.code == 3);
    CHECK(result.out.empty());
    CHECK_THAT(result.err, Catch::Contains(contains));
    CHECK(home.registry().runs({}).empty());
  };
  spill(home.folder / "work" / "bare.jsonl", "{\"question\": \"How many?\", \"answer\": \"Two.\"}\n");
  refused("data.train=bare.jsonl", "bare.jsonl:1");

  const std::string weights = slurp(shipped / "model.safetensors");
  spill(model / "model.safetensors", weights.substr(0, weights.size() - 4) + "\xff\xff\xff\xff");
  refused("model.path=" + model.string(), "holds NaN or infinite values; fetch or convert the checkpoint again");
  spill(model / "model.safetensors", weights.substr(0, weights.size() / 2));
  refused("model.path=" + model.string(), "model.safetensors");
}

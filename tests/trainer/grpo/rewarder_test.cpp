// A scorer that is any program: what it may write, and every way in which it may fail.
#include "trainer/grpo/rewarder.h"

#include <chrono>

#include "tests/trainer/grpo/tiny_run.h"
#include "trainer/grpo/train.h"

using namespace assay;
using namespace assay::test;
using train::Outcome;

namespace {

const train::Problem problem{"what?", "72", 1};

struct Shell {
  fs::path folder;
  spec::RewardConfig config;
  Shell(const std::string& name, const std::string& script, double timeout = 20) : folder(fresh_folder("scorer-" + name)) {
    write_text(folder / "score.sh", "#!/bin/sh\n" + script + "\n");
    fs::permissions(folder / "score.sh", fs::perms::owner_all);
    config.scorer = "command";
    config.argv = {"./score.sh", "one argument"};
    config.timeout = timeout;
  }
  std::vector<train::Score> score(std::vector<std::string> completions) const {
    std::vector<train::ToScore> batch;
    for (auto& text : completions) batch.push_back({text, &problem});
    return train::Rewarder(config, folder).score(batch, true);
  }
  std::string failure(std::size_t completions = 3) const {
    try {
      score(std::vector<std::string>(completions, "#### 72"));
    } catch (const train::ScorerFailed& error) {
      return error.what();
    }
    return "";
  }
};

}  // namespace

TEST_CASE("a scorer program gets the completions as JSON lines and gives one line for each") {
  const Shell shell("good", "cat > seen.jsonl; printf '%s' \"$1\" > argument\n"
                            "echo 0.25; echo 1; echo '{\"score\": 0, \"outcome\": \"unparsable\"}';"
                            "echo '{\"score\": 3e-1, \"outcome\": \"correct\", \"answer\": \"x\"}'");
  const auto scores = shell.score({"a \"quoted\"\nline", "b", "ü", "\xff broken"});
  CHECK(scores[0].score == 0.25);
  CHECK(scores[0].outcome == Outcome::wrong);
  CHECK(scores[1].outcome == Outcome::correct);
  CHECK(scores[2].outcome == Outcome::unparsable);
  CHECK(scores[3].outcome == Outcome::correct);
  CHECK(scores[3].score == 0.3);
  CHECK(scores[3].answer == "x");
  const auto seen = read_lines(shell.folder / "seen.jsonl");
  REQUIRE(seen.size() == 4);
  CHECK(seen[0] == json{{"index", 0}, {"completion", "a \"quoted\"\nline"}, {"question", "what?"}, {"answer", "72"}, {"evaluation", true}});
  CHECK(seen[3]["completion"] == "\xef\xbf\xbd broken");
  CHECK(read_text(shell.folder / "argument") == "one argument");
}

TEST_CASE("a bad line is that completion's scorer_error") {
  const auto scores = Shell("bad-line", "cat >/dev/null; echo 1; echo nonsense; echo '{\"points\": 1}'; echo NaN; echo '\"1\"';"
                                        "echo '{\"score\": 1, \"outcome\": \"great\"}'; echo; echo 1e999")
                          .score(std::vector<std::string>(8, "x"));
  CHECK(scores[0].outcome == Outcome::correct);
  for (int i = 1; i < 8; ++i) {
    INFO(i);
    CHECK(scores[i].outcome == Outcome::scorer_error);
    CHECK(scores[i].score == 0);
  }
}

TEST_CASE("a program that fails as a whole is one sentence") {
  const auto has = [](const char* text) { return Catch::Contains(text); };
  CHECK_THAT(Shell("exit", "cat >/dev/null; echo 1; exit 7").failure(), has("score.sh") && has("exit code 7") && has("stderr"));
  CHECK_THAT(Shell("crash", "kill -SEGV $$").failure(), has("signal 11"));
  CHECK_THAT(Shell("few", "cat >/dev/null; echo 1; echo 1").failure(), has("2 lines for 3 completions"));
  CHECK_THAT(Shell("many", "cat >/dev/null; for i in 1 2 3 4; do echo 1; done").failure(), has("4 lines for 3"));
  CHECK_THAT(Shell("none", "cat >/dev/null; for i in 1 2 3; do echo oops; done").failure(), has("no line that is a score") && has("oops"));
  CHECK_THAT(Shell("hang", "sleep 1000", 0.3).failure(), has("reward.timeout = 0.3") && has("killed"));
  // What it leaves behind does not hold the trainer up.
  const auto started = std::chrono::steady_clock::now();
  CHECK(Shell("left", "cat >/dev/null; sleep 1000 & echo 1; echo 1; echo 1").failure().empty());
  CHECK(std::chrono::steady_clock::now() - started < std::chrono::seconds(100));
  // It need not read its input, however much there is.
  CHECK(Shell("deaf", "for i in $(seq 20000); do echo 1; done").failure(20000).empty());

  spec::RewardConfig config;
  config.scorer = "command";
  config.argv = {"./none.sh"};
  CHECK_THROWS_WITH(train::Rewarder(config, "/tmp"), has("no program \"./none.sh\" under /tmp"));
  config.argv = {"no-such-program-of-that-name"};
  CHECK_THROWS_WITH(train::Rewarder(config, "/tmp"), has("in PATH"));
  config.argv = {};
  CHECK_THROWS_WITH(train::Rewarder(config, "/tmp"), has("reward.argv"));
}

TEST_CASE("a run with a scorer program: outcomes are counted; when the program fails the run fails and says so") {
  auto config = tiny_config();
  config.train.steps = 2;
  config.reward.scorer = "command";
  config.reward.argv = {"./score.sh"};
  const auto run = make_run("scorer-run", config);
  // Every fourth line is bad; evaluations are told from training.
  write_text(run / "score.sh", "#!/bin/sh\nn=0\nwhile read -r line; do n=$((n+1)); case \"$line\" in *'\"evaluation\":true'*) echo 1;; "
                               "*) case $((n % 4)) in 0) echo bad;; 1) echo 1;; *) echo 0;; esac;; esac; done\n");
  fs::permissions(run / "score.sh", fs::perms::owner_all);
  REQUIRE(train::train(run) == train::exit_finished);
  const auto metrics = metrics_of(run);
  CHECK(metrics.at(1).at("reward/outcome/scorer_error") == 16.0);
  CHECK(metrics.at(1).at("reward/outcome/correct") == 16.0);
  CHECK(metrics.at(1).at("critic/score/mean") == 0.25);
  CHECK(metrics.at(2).at("val-core/openai/gsm8k/acc/mean@1") == 1.0);

  const auto broken = make_run("scorer-broken", config);
  write_text(broken / "score.sh", "#!/bin/sh\nexit 3\n");
  fs::permissions(broken / "score.sh", fs::perms::owner_all);
  CHECK_THROWS_WITH(train::train(broken), Catch::Contains("exit code 3"));
  CHECK(event_kinds(broken).back() == "scorer_failed");
  CHECK_FALSE(fs::exists(broken / "adapter"));
}

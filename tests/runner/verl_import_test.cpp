// Console logs of verl as runs.
#include "runner/verl_import.h"

#include "home.h"

using namespace assay;
using namespace assay::test;
using Catch::Contains;
using runner::parse_python;
using runner::verl_facts;

namespace {

std::string accuracy(int correct) {
  char text[64];
  std::snprintf(text, sizeof text, "%.17g", correct / 1319.0);
  return text;
}

std::string step(int n, const std::string& more) { return "\x1b[36m(TaskRunner pid=4711)\x1b[0m step:" + std::to_string(n) + " - " + more + "\n"; }

const std::string kHead =
    "+ python3 -m verl.trainer.main_ppo data.train_batch_size=128 actor_rollout_ref.actor.optim.lr=1e-5 +trainer.note='x y'\n"
    "2026-01-15 17:11:58,123 INFO starting, git commit: a04eacda\n"
    "(TaskRunner pid=4711) {'actor_rollout_ref': {'actor': {'optim': {'lr': 1e-05}},\n"
    "(TaskRunner pid=4711)                        'rollout': {'n': 8, 'name': 'vllm', 'free': None, 'on': True}},\n"
    "(TaskRunner pid=4711)  'trainer': {'total_training_steps': 2, 'logger': ['console']}}\n";

std::string whole_log() {
  return kHead + step(0, "val-core/openai/gsm8k/acc/mean@1:np.float64(" + accuracy(107) + ")") +
         step(1, "critic/score/mean:0.2125 - actor/grad_norm:nan - timing_s/step:61.0") +
         step(2, "critic/score/mean:0.3 - actor/grad_norm:-8.1e-06 - val-core/openai/gsm8k/acc/mean@1:" + accuracy(803)) +
         "(TaskRunner pid=4711) 2026-01-15 18:00:00 Final validation metrics: {'val-core/openai/gsm8k/acc/mean@1': 0.6}\n";
}

}  // namespace

TEST_CASE("Python literals") {
  std::size_t used = 0;
  const auto value = parse_python("{'a': [1, -2.5, None, True], \"b\": ('x' 'y', {}), 'c': {'d': 'it\\'s'}} rest", used);
  REQUIRE(value);
  CHECK(*value == json{{"a", {1, -2.5, nullptr, true}}, {"b", {"xy", json::object()}}, {"c", {{"d", "it's"}}}});
  CHECK(used == std::string("{'a': [1, -2.5, None, True], \"b\": ('x' 'y', {}), 'c': {'d': 'it\\'s'}}").size());
  for (const std::string bad : {"", "{", "{'a'", "{'a':", "{'a': 1", "[1", "'x", "{1: 2}", "{'a': <object>}", "-"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_python(bad, used));
  }
  CHECK_FALSE(parse_python(std::string(100'000, '['), used));
}

TEST_CASE("what a log says beside its metrics") {
  const auto facts = verl_facts(whole_log());
  CHECK(facts.config.at("actor_rollout_ref").at("rollout").at("n") == 8);
  CHECK(facts.config.at("actor_rollout_ref").at("actor").at("optim").at("lr") == 1e-05);
  CHECK(facts.overrides.at("data.train_batch_size") == "128");
  CHECK(facts.commit == "a04eacda");
  CHECK(facts.first_time == 1768497118);
  CHECK(facts.last_time == 1768500000);
  CHECK(facts.planned_steps == 2);
  CHECK(facts.said_it_ended);
  CHECK(verl_facts("Training Progress:  69%|\u2588\u2588\u2589   | 20/29 [1:02:03<27:54]\n").planned_steps == 29);
  CHECK(verl_facts("Traceback (most recent call last):\n  File \"x\"\nValueError: no\n").error == "ValueError: no");
  CHECK(verl_facts("Traceback (most recent call last):\n  File \"x\"\nValueError: no\nstep:3 - a/b:1\n").error.empty());
  CHECK(verl_facts("").config.is_null());
}

TEST_CASE("import verl: states, evaluations, several runs, idempotent, what is missing") {
  const Home home("verl");
  const auto file = [&](const std::string& name, const std::string& text) {
    spill(home.folder / "work" / name, text);
    return name;
  };
  file("e13g_whole.log", whole_log());
  // Ends within a line; two runs of one file; two workers mixed; one that failed.
  const std::string whole = whole_log();
  file("cut.log", whole.substr(0, whole.find("step:2") + 30));
  file("two.log", whole_log() + kHead + step(0, "val-core/openai/gsm8k/acc/mean@1:" + accuracy(100)) + step(1, "critic/score/mean:0.5"));
  file("mixed.log", "(A pid=1) step:1 - x/y:1\n(B pid=2) step:1 - x/y:2\n(A pid=1) step:2 - x/y:3\n(B pid=2) step:2 - x/y:4\n");
  file("failed_20260115_171158.log", step(1, "critic/score/mean:0.5") + "Traceback (most recent call last):\n  File \"a.py\"\nTypeError: logger is None\n");
  const Result result = home.assay({"import", "verl", "e13g_whole.log", "cut.log", "two.log", "mixed.log", "failed_20260115_171158.log", "--json"});
  REQUIRE(result.code == 0);
  const json told = json::parse(result.out).at("runs");
  REQUIRE(told.size() == 7);   // the first run of two.log says what e13g_whole.log says: the same run
  std::map<std::string, json> by_run;
  for (const json& run : told)
    if (!run.at("present").get<bool>()) by_run[run.at("run")] = run;
  const auto row = [&](const std::string& run) { return home.run(by_run.at(run).at("number").get<std::int64_t>()); };
  const auto good = row("e13g_whole");
  CHECK(good.state.kind == registry::StateKind::succeeded);
  CHECK(good.started == 1768497118);
  CHECK(good.ended == 1768500000);
  const auto evaluations = home.registry().evaluations(good.number, true);
  REQUIRE(evaluations.size() == 2);
  CHECK(evaluations[1].correct == 803);
  CHECK(evaluations[1].problems == 1319);
  CHECK(evaluations[1].quant == "unknown");
  CHECK(evaluations[1].outcomes.empty());
  CHECK(home.registry().metrics(good.number, "critic/score/mean").size() == 2);
  CHECK(json::parse(home.registry().facts(good.number)->code_json).at("user").at("commit") == "a04eacda");
  CHECK(row("cut").state.kind == registry::StateKind::lost);
  CHECK_THAT(row("cut").state.detail, Contains("step 2 of 2, within a line"));
  CHECK(row("two-2").state.kind == registry::StateKind::lost);
  CHECK_THAT(row("two-2").state.detail, Contains("the log ends at step 1 of 2"));
  CHECK(row("mixed").state.kind == registry::StateKind::lost);
  CHECK(home.registry().metrics(row("mixed-2").number, "x/y")[1].value == 4);
  CHECK(row("failed_20260115_171158").state.detail == "TypeError: logger is None");
  CHECK(row("failed_20260115_171158").started == 1768497118);
  const auto missing = by_run.at("mixed").at("missing");
  for (const char* what : {"config", "dates", "commit"}) CHECK(std::find(missing.begin(), missing.end(), what) != missing.end());

  const std::size_t before = home.registry().runs({}).size();
  const json again = json::parse(home.assay({"import", "verl", "e13g_whole.log", "two.log", "--json"}).out).at("runs");
  for (const json& run : again) CHECK(run.at("present") == true);
  CHECK(home.registry().runs({}).size() == before);
  CHECK(home.assay({"fsck", "--deep"}).code == 0);
  CHECK(home.assay({"compare", "verl"}).code == 0);

  const auto refused = [&](const std::vector<std::string>& words, const std::string& says) {
    const Result bad = home.assay(words);
    CHECK(bad.code == 3);
    CHECK(one_sentence(bad.err));
    CHECK_THAT(bad.err, Contains(says));
  };
  refused({"import", "verl", "none.log"}, "no such file");
  file("empty.log", "nothing of the kind\n");
  refused({"import", "verl", "empty.log"}, "holds no line such as");
  refused({"import", "verl", "e13g_whole.log", "--problems", "7"}, "no shares of so many");
}

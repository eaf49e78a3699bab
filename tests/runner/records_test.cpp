// Records, the care of the registry, two runs compared, verification, bundles: through the command line.
#include "runner/bundle.h"

#include <archive.h>
#include <archive_entry.h>

#include <cstring>
#include <random>

#include "home.h"
#include "support/files.h"
#include "tests/fuzz/manifest_invariants.h"

using namespace assay;
using namespace assay::test;
using Catch::Contains;

namespace {

const char* const kTrainer =
    "cd \"$ASSAY_RUN_DIR\"; mkdir -p eval samples\n"
    "line() { echo '{\"step\":'$1',\"time\":1800000000,\"metrics\":{\"critic/score/mean\":'$2',\"timing_s/step\":'$(date +%N | sed s/^0*/1/)'}}' >> metrics.jsonl; }\n"
    "evaluation() { printf '{\"index\":0,\"outcome\":\"correct\"}\\n{\"index\":1,\"outcome\":\"'$2'\"}\\n' > eval/step-$1.jsonl\n"
    "  echo '{\"step\":'$1',\"problems\":2,\"correct\":'$3',\"quant\":\"none\",\"trained_quant\":\"none\",\"data_sha256\":\"d\"}' > eval/tmp\n"
    "  mv eval/tmp eval/step-$1.json; }\n"
    "evaluation 000000 wrong 1; line 1 0.25; line 2 ${SECOND:-0.5}; evaluation 000002 correct 2\n"
    "echo '{\"a\":1}' > samples/step-000001.jsonl\n"
    "echo '{\"time\":1800000001,\"step\":2,\"kind\":\"finding\",\"message\":\"looked at\",\"data\":{}}' >> events.jsonl";

json records_of(const Home& home, const std::string& what) { return json::parse(home.assay({"note", what, "--json"}).out); }

void writable(const fs::path& file) { fs::permissions(file, fs::perms::owner_write, fs::perm_options::add); }

void spoil(const fs::path& file, const std::string& text) {
  writable(file);
  spill(file, text);
}

}  // namespace

TEST_CASE("records: from the command line and from the series file, versioned, first in a file") {
  const Home home("records");
  home.series("s", {{"a", kTrainer}, {"b", kTrainer}}, "\"train.steps\" = 2");
  const fs::path toml = home.folder / "series" / "s.toml";
  const std::string text = slurp(toml) + "hypothesis = \"b learns\"\n[[cause]]\nname = \"batch size\"\nrun = \"b\"\nagainst = \"a\"\nnote = \"said there\"\n";
  spill(toml, text);
  REQUIRE(home.assay({"run", "s"}).code == 0);
  CHECK_THAT(home.assay({"note", "s"}).out, Contains("b learns") && Contains("cause batch size") && Contains("b against a"));
  REQUIRE(home.assay({"note", "1", "the fan was loud"}).code == 0);
  REQUIRE(home.assay({"note", "1", "the fan was very loud", "--edit", "1"}).code == 0);
  REQUIRE(home.assay({"note", "1", "another"}).code == 0);
  REQUIRE(home.assay({"tag", "a", "keep", "paper"}).code == 0);
  REQUIRE(home.assay({"tag", "a", "paper", "--remove"}).code == 0);
  REQUIRE(home.assay({"verdict", "2", "learns", "--conclusion", "go on"}).code == 0);
  REQUIRE(home.assay({"verdict", "2", "flat"}).code == 0);
  REQUIRE(home.assay({"cause", "s", "batch size", "no effect at all", "--status", "ruled out"}).code == 0);

  json of_a = records_of(home, "1");
  REQUIRE(of_a.size() == 6);
  CHECK(of_a[0].at("subject") == "1");
  CHECK(of_a[0].at("newest") == false);
  CHECK(of_a[1].at("text") == "the fan was very loud");
  CHECK(of_a[1].at("version") == 2);
  CHECK(of_a[2].at("subject") == "2");
  CHECK(of_a[5].at("withdrawn") == true);
  CHECK(count_lines(fs::path(home.run(1).folder) / "records.jsonl") == 6);
  const std::string listed = home.assay({"note", "1"}).out;
  CHECK_THAT(listed, !Contains("the fan was loud") && !Contains("paper"));
  CHECK_THAT(home.assay({"note", "1", "--all"}).out, Contains("the fan was loud") && Contains("paper"));
  const auto series = home.registry().records_of_series("s");
  const auto cause = std::find_if(series.rbegin(), series.rend(), [](const registry::Record& record) { return record.kind == "cause"; });
  REQUIRE(cause != series.rend());
  CHECK(cause->version == 2);
  CHECK(json::parse(cause->data_json) == json{{"run", "b"}, {"against", "a"}, {"status", "ruled out"}});

  // The file says it again: nothing new. It says something else: a new version; the former stays.
  const auto hypotheses = [&] {
    std::size_t count = 0;
    for (const registry::Record& record : home.registry().records_of_series("s")) count += record.kind == "hypothesis";
    return count;
  };
  REQUIRE(home.assay({"run", "s", "--only", "a"}).code == 0);
  CHECK(hypotheses() == 1);
  std::string other = text;
  other.replace(other.find("b learns"), 8, "b is flat");
  spill(toml, other);
  REQUIRE(home.assay({"run", "s", "--only", "a"}).code == 0);
  CHECK(hypotheses() == 2);
  CHECK(json::parse(home.registry().series("s")->json).at("runs").size() == 2);  // also after --only

  // Written by a daemon that was killed before the registry had it: the next one takes it in.
  home.kill_daemon();
  { std::ofstream(fs::path(home.run(1).folder) / "records.jsonl", std::ios::app) << R"({"time":1800000000,"author":"lab","source":"command","kind":"note","text":"late"})" << "\n{\"time\": 18"; }
  CHECK_THAT(home.assay({"note", "1"}).out, Contains("another"));
  REQUIRE(home.assay({"note", "1", "after a torn line"}).code == 0);
  of_a = records_of(home, "1");
  CHECK(of_a.size() == 8);

  const auto refused = [&](const std::vector<std::string>& words, int code, const std::string& says) {
    const Result result = home.assay(words);
    CHECK(result.code == code);
    CHECK(one_sentence(result.err));
    CHECK_THAT(result.err, Contains(says));
  };
  refused({"note", "nothing", "x"}, 5, "'nothing'");
  refused({"note", "1", "x", "--edit", "9"}, 5, "no note 9");
  refused({"tag", "1", "two words"}, 2, "one word");
  refused({"tag", "1", "absent", "--remove"}, 5, "no tag absent");
  refused({"cause", "1", "x", "--status", "found"}, 2, "give the series s");
  refused({"cause", "s", "x", "--run", "a"}, 2, "both --run and --against");
  refused({"cause", "s", "x", "--run", "a", "--against", "c"}, 5, "no run 'c'");
  refused({"note", "1", std::string(70'000, 'x')}, 3, "64 KiB");
  CHECK(records_of(home, "1").size() == 8);
}

TEST_CASE("rebuild: limits of groups, pauses, priorities and what was cleaned come back") {
  const Home home("rebuild-queue");
  home.series("s", {{"a", kTrainer}});
  REQUIRE(home.assay({"group", "none-of-it", "0"}).code == 0);
  REQUIRE(home.assay({"group", "two", "2"}).code == 0);
  REQUIRE(home.assay({"group", "taken-back", "7"}).code == 0);
  REQUIRE(home.assay({"group", "taken-back", "none"}).code == 0);
  REQUIRE(home.assay({"run", "s", "--seeds", "1,2,3"}).code == 0);
  REQUIRE(home.assay({"add", "s", "--seeds", "4,5,6", "--group", "none-of-it"}).code == 0);
  REQUIRE(home.assay({"pause", "4", "5"}).code == 0);
  REQUIRE(home.assay({"resume", "5"}).code == 0);
  REQUIRE(home.assay({"edit", "6", "--priority", "3"}).code == 0);
  REQUIRE(home.assay({"clean", "1", "2"}).code == 0);
  const auto text = [&] {
    return home.assay({"group"}).out + home.assay({"status"}).out + home.assay({"status", "--all"}).out;
  };
  const std::string before = text();
  CHECK_THAT(before, Contains("none-of-it") && !Contains("taken-back"));
  const registry::RunRow done = home.run(1);

  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  REQUIRE(home.assay({"rebuild"}).code == 0);
  CHECK(text() == before);
  CHECK(home.registry().groups() == std::map<std::string, int>{{"none-of-it", 0}, {"two", 2}});
  for (const std::int64_t number : {1, 2, 3, 4, 5, 6}) {
    CHECK(home.run(number).held == (number == 4));
    CHECK(home.run(number).hidden == (number <= 2));
  }
  // That it was cleaned is no new end of a run.
  CHECK(home.run(1).ended == done.ended);
  CHECK(home.run(1).started == done.started);
  CHECK(home.assay({"fsck", "--deep"}).code == 0);

  // The file counts, also for the registry that is there; and one that cannot be read is not passed over.
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  spill(home.data() / "groups.json", "{\"none-of-it\": 0, \"two\": 5}");
  CHECK(home.assay({"fsck"}).code != 0);
  CHECK_THAT(home.assay({"group"}).out, Contains("5"));
  CHECK(home.registry().groups().at("two") == 5);
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  spill(home.data() / "groups.json", "{\"two\": ");
  const Result refused = home.assay({"group"});
  CHECK(refused.code == 1);
  CHECK_THAT(refused.err, Contains("groups.json") && Contains("delete it"));
}

TEST_CASE("rebuild: everything comes back from the folders alone; fsck finds what does not agree") {
  const Home home("rebuild");
  home.series("s", {{"a", kTrainer}, {"bad", "metric 1; echo 'no such model' >&2; exit 3"}, {"c", kTrainer}}, "\"train.steps\" = 2");
  REQUIRE(home.assay({"run", "s", "--only", "a,bad", "--seeds", "1,2", "--label", "where=lab"}).code == 4);
  REQUIRE(home.assay({"run", "s", "--only", "c", "--after", "2"}).code == 4);     // skipped
  REQUIRE(home.assay({"verdict", "1", "learns"}).code == 0);
  REQUIRE(home.assay({"note", "s", "of the series"}).code == 0);
  const auto text = [&] {
    std::string all = home.assay({"compare", "s", "--json"}).out + home.assay({"status", "--all"}).out + home.assay({"note", "s", "--all"}).out;
    for (const char* run : {"1", "2", "5"}) all += home.assay({"diff", "1", run}).out;
    return all;
  };
  const std::string before = text();
  CHECK(home.state(5) == "skipped");
  CHECK(home.assay({"fsck"}).code == 0);
  const Result deep = home.assay({"fsck", "--deep"});
  CHECK(deep.code == 0);
  const fs::path copy = home.folder / "copy.sqlite";
  REQUIRE(home.assay({"backup", copy.string()}).code == 0);
  CHECK(registry::Registry::open(copy, registry::Registry::Access::read_only).runs({}).size() == 5);
  CHECK(home.assay({"backup", copy.string()}).code == 3);

  CHECK(home.assay({"rebuild"}).code == 7);   // the daemon uses it
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  const Result rebuilt = home.assay({"rebuild", "--json"});
  REQUIRE(rebuilt.code == 0);
  CHECK(json::parse(rebuilt.out).at("runs") == 5);
  CHECK(fs::exists(json::parse(rebuilt.out).at("former").get<std::string>()));
  CHECK(text() == before);
  CHECK(home.assay({"fsck", "--deep"}).code == 0);

  // Gone altogether: never taken for a fresh start.
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(home.data() / ("registry.sqlite" + std::string(suffix)));
  for (const std::vector<std::string>& words : {std::vector<std::string>{"status"}, {"run", "s"}, {"fsck"}}) {
    const Result lost = home.assay(words);
    CHECK(lost.code == 1);
    CHECK_THAT(lost.err, Contains("5 run folders") && Contains("assay rebuild"));
  }
  REQUIRE(home.assay({"rebuild"}).code == 0);
  CHECK(text() == before);
  // Overwritten with rubbish: refused, and made anew all the same.
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  for (const char* suffix : {"-wal", "-shm"}) fs::remove(home.data() / ("registry.sqlite" + std::string(suffix)));
  spill(home.data() / "registry.sqlite", "SQLite format 3" + std::string(9000, '\1'));
  CHECK(home.assay({"status"}).code == 1);
  REQUIRE(home.assay({"rebuild"}).code == 0);
  CHECK(text() == before);

  const auto finds = [&](const std::string& what) {
    const Result result = home.assay({"fsck"});
    CHECK(result.code == 6);
    CHECK_THAT(result.out, Contains(what));
  };
  const fs::path one = home.run(1).folder;
  const std::string config = slurp(one / "config.json"), environment = slurp(one / "environment.json"), states = slurp(one / "states.jsonl");
  spoil(one / "config.json", config + " ");
  finds("run 1: config.json is not what was frozen");
  spoil(one / "config.json", config);
  spoil(one / "environment.json", "{}");
  finds("run 1: environment.json");
  spoil(one / "environment.json", environment);
  spill(one / "states.jsonl", states.substr(0, states.rfind('{')));
  finds("the registry says succeeded");
  spill(one / "states.jsonl", states);
  { std::ofstream(one / "metrics.jsonl", std::ios::app) << R"({"step":3,"metrics":{"critic/score/mean":1}})" << "\n"; }
  finds("of metrics.jsonl are not in the registry");
  fs::copy(one, one.parent_path() / "000099-x-s1", fs::copy_options::recursive);
  finds("is of no run in the registry");
  fs::remove_all(one.parent_path() / "000099-x-s1");
  fs::rename(one, home.folder / "elsewhere");
  finds("run 1: its folder");
}

TEST_CASE("diff: configuration, metrics and where they part, evaluations") {
  const Home home("diff");
  home.series("s", {{"a", kTrainer}, {"b", "SECOND=0.75\n" + std::string(kTrainer)}}, "\"train.steps\" = 2");
  REQUIRE(home.assay({"run", "s"}).code == 0);
  REQUIRE(home.assay({"run", "s/a"}).code == 0);
  const json parted = json::parse(home.assay({"diff", "1", "2", "--json"}).out);
  CHECK(parted.at("metrics").at("parts_at") == 2);
  CHECK(parted.at("metrics").at("there").size() == 1);
  CHECK(parted.at("metrics").at("there")[0] == json{{"key", "critic/score/mean"}, {"a", 0.5}, {"b", 0.75}});
  CHECK(parted.at("config").size() == 1);
  CHECK(parted.at("config")[0].at("key") == "trainer.argv.1");
  CHECK(parted.at("environment").empty());
  const json same = json::parse(home.assay({"diff", "1", "3", "--json"}).out);
  CHECK(same.at("config").empty());
  CHECK(same.at("metrics").at("parts_at").is_null());
  CHECK(same.at("metrics").at("equal") == same.at("metrics").at("compared"));   // timing_s/* left out
  CHECK(same.at("evaluations").empty());
  CHECK_THAT(home.assay({"diff", "1", "2"}).out, Contains("they part at step 2") && Contains("critic/score/mean: 0.5 | 0.75"));
}

TEST_CASE("verify of another trainer's run: identical, and different from the step on where it is") {
  const Home home("verify-command");
  home.series("s", {{"a", "SECOND=$(cat $GATES/second 2>/dev/null || echo 0.5)\n" + std::string(kTrainer)}}, "\"train.steps\" = 2");
  REQUIRE(home.assay({"run", "s"}).code == 0);
  const Result same = home.assay({"verify", "1"});
  CHECK(same.code == 0);
  CHECK_THAT(same.out, Contains("identical: 2 metrics"));
  spill(home.folder / "gates" / "second", "0.5000001");
  const Result other = home.assay({"verify", "1", "--json"});
  CHECK(other.code == 4);
  CHECK(json::parse(other.out).at("step") == 2);
  const Result near = home.assay({"verify", "1", "--tolerance", "1e-5"});
  CHECK(near.code == 0);
  CHECK_THAT(near.out, Contains("equal within tolerance"));
  const json records = records_of(home, "1");
  REQUIRE(records.size() == 3);
  CHECK(records[0].at("data").at("verdict") == "identical");
  CHECK(records[1].at("data").at("verdict") == "different");
  CHECK(records[2].at("version") == 3);
  // A verification does not take the place of the run it repeats.
  CHECK(json::parse(home.assay({"logs", "a", "--json"}).out).at("number") == 1);
}

TEST_CASE("verify of a run of the embedded trainer: identical, one bit of the base model, one library") {
  const Home home("verify");
  const fs::path model = home.folder / "model";
  fs::copy(source("experiments/e13/model"), model);
  REQUIRE(home.assay({"run", "e13", "--only", "e13g-nvfp4", "--no-doctor", "--set", "model.path=" + model.string(), "--set", "train.steps=2",
                      "--set", "grpo.train_batch_size=4", "--set", "grpo.gen_batch_size=4", "--set", "grpo.mini_batch_size=4", "--set",
                      "grpo.filter_groups=false", "--set", "rollout.max_response_length=16", "--set", "eval.limit=16"}).code == 0);
  const Result same = home.assay({"verify", "1", "--this-build"});
  CHECK(same.code == 0);
  CHECK_THAT(same.out, Contains("identical: "));
  CHECK(fs::exists(fs::path(home.run(2).folder) / "adapter" / "adapter_model.safetensors"));

  std::string weights = slurp(model / "model.safetensors");
  // The highest bit of the mantissa of a weight in the middle: no NaN, no infinity.
  std::uint64_t header = 0;
  std::memcpy(&header, weights.data(), sizeof header);
  const std::size_t at = 8 + header + (weights.size() - 8 - header) / 8 * 4 + 2;
  weights[at] = static_cast<char>(weights[at] ^ 0x40);
  spill(model / "model.safetensors", weights);
  const fs::path environment = fs::path(home.run(1).folder) / "environment.json";
  json machine = json::parse(slurp(environment));
  const std::string libtorch = machine["libraries"]["libtorch"];
  machine["libraries"]["libtorch"] = "1.0.0";
  spoil(environment, machine.dump());
  const Result other = home.assay({"verify", "1", "--this-build", "--json"});
  CHECK(other.code == 4);
  const json verdict = json::parse(other.out);
  CHECK(verdict.at("verdict") == "different");
  CHECK(verdict.at("step").get<int>() <= 1);   // at 0, the evaluation before the first step, if an answer changed
  REQUIRE(verdict.at("inputs").size() == 1);
  CHECK_THAT(verdict.at("inputs")[0].at("path").get<std::string>(), Contains("model.safetensors"));
  REQUIRE(verdict.at("environment").size() == 1);
  CHECK(verdict.at("environment")[0] == json{{"key", "libraries.libtorch"}, {"a", "1.0.0"}, {"b", libtorch}});
  CHECK_THAT(other.err, Contains("model.safetensors is not what run 1 used"));
  CHECK_THAT(home.assay({"verdict", "1"}).out, Contains("different from step ") && Contains("libraries.libtorch: 1.0.0 then"));
}

TEST_CASE("verify builds the commit the run was made by, in a worktree of its own") {
  const Home home("verify-build");
  // A repository whose build makes an "assay-train": a copy of the real one under another commit.
  const fs::path repository = home.folder / "source";
  fs::create_directories(repository);
  spill(repository / "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.25)\nproject(a NONE)\nadd_custom_target(assay-train COMMAND ${CMAKE_COMMAND} -E make_directory "
        "${CMAKE_BINARY_DIR}/bin COMMAND ${CMAKE_COMMAND} -E copy " + (Home::program().parent_path() / "assay-train").string() +
            " ${CMAKE_BINARY_DIR}/bin/assay-train)\n");
  spill(repository / "CMakePresets.json",
        R"({"version":6,"configurePresets":[{"name":"default","generator":"Ninja","binaryDir":"${sourceDir}/build/default"}],"buildPresets":[{"name":"default","configurePreset":"default"}]})");
  const auto git = [&](const std::string& words) { REQUIRE(std::system(("cd '" + repository.string() + "' && git " + words + " >/dev/null 2>&1").c_str()) == 0); };
  git("init");
  git("add -A");
  git("-c user.name=a -c user.email=a@b -c commit.gpgsign=false commit -m one");
  REQUIRE(std::system(("cd '" + repository.string() + "' && git rev-parse HEAD > ../commit").c_str()) == 0);
  std::string commit = slurp(home.folder / "commit");
  commit.pop_back();
  REQUIRE(home.assay({"run", "e13", "--only", "bf16", "--no-doctor", "--set", "train.steps=1", "--set", "grpo.train_batch_size=2", "--set",
                      "grpo.gen_batch_size=2", "--set", "grpo.mini_batch_size=2", "--set", "grpo.filter_groups=false", "--set",
                      "rollout.max_response_length=8", "--set", "eval.limit=4"}).code == 0);
  const fs::path code = fs::path(home.run(1).folder) / "code.json";
  json facts = json::parse(slurp(code));
  facts["assay"]["commit"] = std::string(40, 'a');
  facts["assay"]["dirty"] = false;
  spoil(code, facts.dump());
  const Result missing = home.assay({"verify", "1", "--source", repository.string()});
  CHECK(missing.code == 3);
  CHECK_THAT(missing.err, Contains("commit aaaaaaaaaaaa of assay cannot be checked out"));
  facts["assay"]["commit"] = commit;
  spoil(code, facts.dump());
  const Result verified = home.assay({"verify", "1", "--source", repository.string(), "--json"});
  CHECK(verified.code == 0);
  CHECK(json::parse(verified.out).at("commit") == commit);
  CHECK_THAT(json::parse(home.run(2).run_json).at("trainer").get<std::string>(), Contains("builds/" + commit));
  facts["assay"]["dirty"] = true;
  spoil(code, facts.dump());
  CHECK_THAT(home.assay({"verify", "1", "--source", repository.string()}).err, Contains("uncommitted changes, which are not recorded"));
}

TEST_CASE("bundles: another machine imports them, and whatever is wrong with one is refused") {
  const Home here("bundle-here"), there("bundle-there");
  here.series("s", {{"a", kTrainer}, {"bad", "metric 1; exit 3"}}, "\"train.steps\" = 2");
  REQUIRE(here.assay({"run", "s", "--seeds", "1,2"}).code == 4);
  REQUIRE(here.assay({"verdict", "1", "learns"}).code == 0);
  REQUIRE(here.assay({"note", "s", "of the series"}).code == 0);
  for (const std::string suffix : {".tar.zst", ".tar.gz"}) {
    const fs::path file = here.folder / ("bundle" + suffix);
    REQUIRE(here.assay({"bundle", "create", "s", "--out", file.string()}).code == 0);
    CHECK(here.assay({"bundle", "create", "s", "--out", file.string()}).code == 3);
    CHECK(there.assay({"bundle", "import", file.string(), "--check"}).code == 0);
  }
  CHECK_FALSE(fs::exists(there.data() / "registry.sqlite"));
  const fs::path file = here.folder / "bundle.tar.zst";
  const Result taken = there.assay({"bundle", "import", file.string()});
  REQUIRE(taken.code == 0);
  CHECK(there.assay({"fsck", "--deep"}).code == 0);
  CHECK(there.assay({"compare", "s", "--json"}).out == here.assay({"compare", "s", "--json"}).out);
  CHECK(there.state(2) == "failed");
  CHECK(there.run(1).ended == here.run(1).ended);
  CHECK(there.registry().attempts(1).size() == 1);
  CHECK(records_of(there, "1").size() == 1);
  CHECK(records_of(there, "s").size() == records_of(here, "s").size());
  CHECK(json::parse(there.run(1).run_json).at("origin").at("kind") == "bundle");
  const json again = json::parse(there.assay({"bundle", "import", file.string(), "--json"}).out);
  CHECK(again.at("added").empty());
  CHECK(again.at("present").size() == 4);
  CHECK(there.registry().runs({}).size() == 4);
  REQUIRE(there.assay({"daemon", "stop"}).code == 0);
  CHECK(there.assay({"rebuild"}).code == 0);
  CHECK(there.assay({"compare", "s", "--json"}).out == here.assay({"compare", "s", "--json"}).out);

  const Home victim("bundle-victim");
  const auto refused = [&](const fs::path& bundle, const std::string& says) {
    const Result result = victim.assay({"bundle", "import", bundle.string()});
    CHECK(result.code == 3);
    CHECK(one_sentence(result.err));
    CHECK_THAT(result.err, Contains(says));
    CHECK(victim.run_folders().empty());
    CHECK_FALSE(fs::exists(victim.folder / "evil"));
  };
  const std::string whole = slurp(file);
  const fs::path bad = here.folder / "bad.tar.zst";
  spill(bad, whole.substr(0, whole.size() / 2));
  refused(bad, "cut short");
  spill(bad, "not an archive at all");
  refused(bad, "bad.tar.zst");
  refused(here.folder / "none.tar.gz", "no such file");
  // Members put together by hand.
  const auto make = [&](const std::vector<std::pair<std::string, std::string>>& members, const std::string& link = "") {
    archive* out = archive_write_new();
    archive_write_set_format_pax_restricted(out);
    archive_write_add_filter_gzip(out);
    archive_write_open_filename(out, (here.folder / "hand.tar.gz").c_str());
    for (const auto& [path, text] : members) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, path.c_str());
      archive_entry_set_filetype(entry, path == link ? AE_IFLNK : AE_IFREG);
      if (path == link) archive_entry_set_symlink(entry, text.c_str());
      archive_entry_set_perm(entry, 0644);
      archive_entry_set_size(entry, path == link ? 0 : static_cast<la_int64_t>(text.size()));
      archive_write_header(out, entry);
      if (path != link) archive_write_data(out, text.data(), text.size());
      archive_entry_free(entry);
    }
    archive_write_free(out);
    return here.folder / "hand.tar.gz";
  };
  const auto manifest = [&](const std::string& path, const std::string& text) {
    return json{{"format", "assay-bundle"}, {"version", 1}, {"created", ""}, {"series", {"s"}}, {"runs", json::array()},
                {"files", {{{"path", path}, {"bytes", text.size()}, {"sha256", support::sha256_hex(text)}}}}}.dump();
  };
  refused(make({{"manifest.json", manifest("series/s/../../../evil", "x")}, {"series/s/../../../evil", "x"}}), "none that a bundle may hold");
  refused(make({{"manifest.json", manifest("/evil", "x")}, {"/evil", "x"}}), "none that a bundle may hold");
  refused(make({{"manifest.json", manifest("series/s/series.json", "x")}, {"../evil", "x"}}), "does not name");
  refused(make({{"manifest.json", manifest("series/s/link", "x")}, {"series/s/link", "/etc/passwd"}}, "series/s/link"), "no plain file");
  refused(make({{"manifest.json", manifest("series/s/series.json", "x")}, {"series/s/series.json", "y"}}), "has not the SHA-256");
  refused(make({{"manifest.json", manifest("series/s/series.json", "x")}, {"series/s/series.json", "xx"}}), "longer than its manifest");
  refused(make({{"manifest.json", manifest("series/s/series.json", "x")}}), "are missing");
  refused(make({{"other", "x"}}), "not manifest.json");
}

TEST_CASE("manifests that are refused") {
  const auto file = [](const std::string& path) { return json{{"path", path}, {"bytes", 1}, {"sha256", std::string(64, 'a')}}; };
  const auto with = [&](const json& change) {
    json manifest = {{"format", "assay-bundle"}, {"version", 1}, {"created", ""}, {"series", {"s"}}, {"runs", {{{"number", 1}, {"folder", "runs/s/000001-a-s1"}}}},
                     {"files", {file("series/s/series.json"), file("runs/s/000001-a-s1/eval/step-000000.json")}}};
    manifest.update(change);
    return manifest.dump();
  };
  CHECK(runner::parse_manifest(with(json::object())).files.size() == 2);
  for (const json& change : {json{{"format", "zip"}}, json{{"version", 2}}, json{{"series", {"../s"}}}, json{{"series", {"s", "s"}}}, json{{"series", json::array()}},
                             json{{"runs", {{{"number", 1}, {"folder", "runs/s/.."}}}}}, json{{"runs", {{{"number", 1}, {"folder", "runs/t/x"}}}}},
                             json{{"files", {file("series/s/a"), file("series/s/a")}}}, json{{"files", {file("series/s/a"), file("series/s/a/b")}}},
                             json{{"files", {file("series/t/a")}}}, json{{"files", {file("series/s")}}}, json{{"files", {file("runs/s/000001-a-s1//x")}}},
                             json{{"files", {file("runs/s/000001-a-s1/./x")}}}, json{{"files", {file("series/s/a\nb")}}}, json{{"files", {file("series/s/a\\b")}}},
                             json{{"files", {{{"path", "series/s/a"}, {"bytes", -1}, {"sha256", std::string(64, 'a')}}}}}}) {
    INFO(change.dump());
    CHECK_THROWS(runner::parse_manifest(with(change)));
  }
  CHECK_THROWS(runner::parse_manifest("[]"));
  CHECK_THROWS(runner::parse_manifest("{"));
}

TEST_CASE("whatever is made of a manifest, no path of one that is accepted leaves its folder") {
  const std::string good = json{{"format", "assay-bundle"}, {"version", 1}, {"created", ""}, {"series", {"s"}},
                                {"runs", {{{"number", 1}, {"folder", "runs/s/a"}}}},
                                {"files", {{{"path", "runs/s/a/b/c"}, {"bytes", 1}, {"sha256", std::string(64, 'a')}},
                                           {{"path", "series/s/d"}, {"bytes", 1}, {"sha256", std::string(64, 'b')}}}}}.dump();
  std::mt19937 generator(7);
  int accepted = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string text = good;
    for (unsigned n = generator() % 3; n > 0; --n) {
      static const std::string kPieces[] = {"/", "..", ".", "/../", "\\\\", "s", "a", "\\u0000", "runs", "series", "\"", "~", "%2e", "//"};
      const std::string& piece = kPieces[generator() % std::size(kPieces)];
      text.replace(generator() % text.size(), generator() % 4, piece);
    }
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
    REQUIRE(fuzz::manifest_finding(bytes, text.size()) == "");
    try {
      runner::parse_manifest(text);
      ++accepted;
    } catch (const std::runtime_error&) {
    }
  }
  CHECK(accepted > 1000);   // or nothing was tried
}

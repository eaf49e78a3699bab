// Runs on a real Slurm of this machine (tests/slurm/start): states and metrics through kills, requeues and preemption.
#include <algorithm>

#include "home.h"
#include "runner/executors/slurm_task.h"
#include "runner/executors/slurm_words.h"

using namespace assay;
using namespace assay::test;
namespace slurm = assay::runner::slurm;

namespace {

class Cluster {
 public:
  explicit Cluster(const std::string& name = "r-slurm-cluster", const std::string& options = "") : folder_(fresh_folder(name)) {
    code_ = run(script("start") + " " + folder_.string() + " " + options, text_);
    if (code_ == 0) conf_ = text_.substr(0, text_.find('\n'));
  }
  ~Cluster() {
    std::string ignored;
    run(script("stop") + " " + folder_.string(), ignored);
  }
  // One for the whole program.
  static Cluster& get() {
    static Cluster cluster;
    return cluster;
  }
  // False: there is none here, and that was said.
  bool there() const {
    if (code_ == 77) {
      WARN("SKIPPED: " << text_);
      return false;
    }
    INFO(text_);
    REQUIRE(code_ == 0);
    return true;
  }
  const std::string& conf() const { return conf_; }
  std::string ask(const std::string& command) const {
    std::string text;
    run("SLURM_CONF=" + conf_ + " " + command, text);
    return text;
  }

 private:
  static std::string script(const std::string& name) { return std::string(ASSAY_SOURCE_DIR) + "/tests/slurm/" + name; }
  static int run(const std::string& command, std::string& text) {
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr) return -1;   // no assertion: it is called when the program ends, too
    char buffer[4096];
    while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
    const int status = ::pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  fs::path folder_;
  int code_ = -1;
  std::string text_, conf_;
};

struct SlurmHome : Home {
  SlurmHome(const Cluster& cluster, const std::string& name) : Home("slurm-" + name) {
    environment["SLURM_CONF"] = cluster.conf();
    environment["ASSAY_SLURM_POLL"] = "0.3";
  }
};

std::string job_of(const Home& home, std::int64_t number) {
  const fs::path file = fs::path(home.run(number).folder) / "slurm.json";
  if (!fs::exists(file)) return "";
  const auto place = slurm::place_from_json(slurp(file));
  return place.job == 0 ? "" : place.id();
}

// A requeued job waits for two minutes (cred_expire), counted from the end of its former life's clean-up. Has it start now
// and waits for `condition`. Not at once: a node refuses a credential made in the second in which it ended the former life
// ("Job credential revoked"), and the job is over.
bool starts_again(const Cluster& cluster, const std::string& job, const std::function<bool()>& condition) {
  const auto state = [&] { return cluster.ask("squeue -h --array --format=%T --jobs=" + job); };
  if (eventually([&] { return condition() || state().rfind("PENDING", 0) == 0; })) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    cluster.ask("scontrol update jobid=" + job + " StartTime=now");
    if (eventually(condition)) return true;
  }
  UNSCOPED_INFO(cluster.ask("scontrol show job " + job) << cluster.ask("sinfo --Node --long")
                << cluster.ask("tail -n 100 " + fs::path(cluster.conf()).parent_path().string() + "/log/slurm*"));
  return false;
}

bool up(const Home& home, const std::string& name) { return fs::exists(home.folder / "gates" / name); }

double last_score(const Home& home, std::int64_t number, std::int64_t step) {
  for (const auto& point : home.registry().metrics(number, "critic/score/mean"))
    if (point.step == step) return point.value;
  return -1;
}

// A small part of E13 for the embedded trainer: seconds.
void add_e13(SlurmHome& home, const std::vector<std::string>& more) {
  home.environment["ASSAY_EXPERIMENTS"] = std::string(ASSAY_SOURCE_DIR) + "/experiments";
  std::vector<std::string> words = {"add", "e13/bf16"};
  for (const char* set : {"grpo.train_batch_size=8", "grpo.mini_batch_size=4", "rollout.max_response_length=32", "eval.limit=16",
                          "checkpoint.every=1"})
    words.insert(words.end(), {"--set", set});
  words.insert(words.end(), more.begin(), more.end());
  REQUIRE(home.assay(words).code == 0);
}

// What a run's bits are compared by: (step, key) -> value, without times.
std::map<std::pair<std::int64_t, std::string>, double> metrics_of(const Home& home, std::int64_t number) {
  std::map<std::pair<std::int64_t, std::string>, double> all;
  std::istringstream lines(slurp(fs::path(home.run(number).folder) / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    if (line.find('{') == std::string::npos) continue;
    const json document = json::parse(line);
    for (const auto& [key, value] : document.at("metrics").items())
      if (key.rfind("timing_s/", 0) != 0 && key.rfind("perf/", 0) != 0 && value.is_number())
        all[{document.at("step").get<std::int64_t>(), key}] = value.get<double>();
  }
  return all;
}

bool has_step(const Home& home, std::int64_t number, std::int64_t step) {
  return slurp(fs::path(home.run(number).folder) / "metrics.jsonl").find("\"step\":" + std::to_string(step) + ",") != std::string::npos;
}

// Processes that srun has started as this rank of the run.
std::vector<pid_t> ranks_of(const Home& home, std::int64_t number, int rank) {
  const std::string nul(1, '\0');
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string environ = nul + slurp(entry.path() / "environ");
    if (environ.find(nul + "ASSAY_RUN_DIR=" + home.run(number).folder + nul) != std::string::npos &&
        environ.find(nul + "PMIX_RANK=" + std::to_string(rank) + nul) != std::string::npos)
      found.push_back(static_cast<pid_t>(std::stol(name)));
  }
  return found;
}

}  // namespace

TEST_CASE("six runs as one array: the daemon killed in the middle, one job cancelled outside, one requeued") {
  const Cluster& cluster = Cluster::get();
  if (!cluster.there()) return;
  const SlurmHome home(cluster, "six");
  std::vector<std::pair<std::string, std::string>> scripts;
  for (const char* id : {"a", "b", "c", "d", "e", "f"})
    scripts.push_back({id, std::string("metric 1; touch $GATES/up-") + id + "; gate go-" + id + "; metric 2"});
  home.series("s", scripts);
  REQUIRE(home.assay({"add", "s", "--slurm"}).code == 0);
  // Two nodes of two cores: four of six run.
  REQUIRE(eventually([&] { return up(home, "up-a") && up(home, "up-b") && up(home, "up-c") && up(home, "up-d"); }));
  REQUIRE(eventually([&] { return home.state(1) == "running" && home.state(4) == "running"; }));
  CHECK(job_of(home, 1).substr(0, job_of(home, 1).find('_')) == job_of(home, 6).substr(0, job_of(home, 6).find('_')));
  CHECK_THAT(home.assay({"status", "s"}).out, Catch::Contains("Slurm: "));

  home.kill_daemon();
  home.open_gate("go-a");
  cluster.ask("scancel " + job_of(home, 2));
  CHECK(cluster.ask("scontrol requeue " + job_of(home, 3)) == "");
  fs::remove(home.folder / "gates" / "up-c");
  for (const char* gate : {"go-d", "go-e", "go-f"}) home.open_gate(gate);
  REQUIRE(home.assay({"status"}).code == 0);   // the next daemon
  REQUIRE(starts_again(cluster, job_of(home, 3), [&] { return up(home, "up-c"); }));
  home.open_gate("go-c");
  CHECK(home.assay({"wait", "s"}).code == 4);

  for (const std::int64_t number : {1, 3, 4, 5, 6}) {
    CAPTURE(number);
    CHECK(home.state(number) == "succeeded");
    CHECK(home.run(number).attempt == 1);
    CHECK(last_score(home, number, 2) == 0.5);
  }
  CHECK(home.state(2) == "killed");
  CHECK_THAT(home.run(2).state.detail, Catch::Contains("cancelled in Slurm"));
  // The requeued run began anew: its former life is kept apart, and left no second line of the same step.
  const fs::path folder = home.run(3).folder;
  CHECK(count_lines(folder / "metrics.jsonl") == 2);
  CHECK(fs::exists(folder / "attempts" / "0001.1" / "metrics.jsonl"));
}

TEST_CASE("kill ends a waiting job and a running one, and says by whom") {
  const Cluster& cluster = Cluster::get();
  if (!cluster.there()) return;
  const SlurmHome home(cluster, "kill");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate never"}, {"b", "metric 1; gate never"}},
              "\"schedule.slurm_options\" = [\"--nodelist=1\", \"--exclusive\"]");
  REQUIRE(home.assay({"add", "s", "--slurm"}).code == 0);
  REQUIRE(eventually([&] { return home.state(1) == "running" && up(home, "up"); }));
  const std::string job = job_of(home, 1);
  CHECK(home.assay({"kill", "1", "2", "--grace", "2"}).code == 0);
  for (const std::int64_t number : {1, 2}) {
    CHECK(home.state(number) == "killed");
    CHECK_THAT(home.run(number).state.detail, !Catch::Contains("Slurm"));
  }
  CHECK(runner::end_by_environment("ASSAY_RUN_DIR=" + home.run(1).folder) == 0);
  REQUIRE(eventually([&] { return cluster.ask("squeue -h --states=running --jobs=" + job).find(job) == std::string::npos; }));
}

TEST_CASE("a preempted run goes back into the queue and runs again") {
  const Cluster& cluster = Cluster::get();
  if (!cluster.there()) return;
  const SlurmHome home(cluster, "preempt");
  home.series("low", {{"a", "metric 1; touch $GATES/low; gate go; metric 2"}},
              "\"schedule.slurm_options\" = [\"--nodelist=2\", \"--exclusive\"]");
  home.series("high", {{"a", "metric 1; touch $GATES/high; gate high-go"}},
              "\"schedule.slurm_options\" = [\"--nodelist=2\", \"--exclusive\", \"--partition=urgent\"]");
  REQUIRE(home.assay({"add", "low", "--slurm"}).code == 0);
  REQUIRE(eventually([&] { return home.state(1) == "running" && up(home, "low"); }));
  REQUIRE(home.assay({"add", "high", "--slurm"}).code == 0);
  REQUIRE(eventually([&] { return home.state(2) == "running" && up(home, "high"); }));
  CHECK(home.state(1) == "running");   // not over: it waits, and status says for what
  REQUIRE(eventually([&] { return home.assay({"status", "low"}).out.find("Slurm: ") != std::string::npos; }));
  fs::remove(home.folder / "gates" / "low");
  home.open_gate("high-go");
  home.open_gate("go");
  CHECK(home.assay({"wait", "2"}).code == 0);
  REQUIRE(starts_again(cluster, job_of(home, 1), [&] { return up(home, "low"); }));
  CHECK(home.assay({"wait", "1"}).code == 0);
  CHECK(count_lines(fs::path(home.run(1).folder) / "metrics.jsonl") == 2);
}

TEST_CASE("a requeued run of the embedded trainer goes on from its checkpoint, to the bits of one that was left alone") {
  const Cluster& cluster = Cluster::get();
  if (!cluster.there()) return;
  SlurmHome home(cluster, "resume");
  add_e13(home, {"--slurm", "--set", "train.steps=16"});
  REQUIRE(eventually([&] { return home.state(1) == "running" && has_step(home, 1, 3); }, 600));
  CHECK(cluster.ask("scontrol requeue " + job_of(home, 1)) == "");
  const fs::path folder = home.run(1).folder;
  REQUIRE(starts_again(cluster, job_of(home, 1), [&] { return fs::exists(folder / "attempts" / "0001.1") && fs::exists(folder / "supervisor.json"); }));
  add_e13(home, {"--set", "train.steps=16"});
  REQUIRE(home.assay({"wait", "1", "2"}).code == 0);
  CHECK(home.run(1).attempt == 1);
  CHECK(slurp(folder / "events.jsonl").find("\"resumed\"") != std::string::npos);
  CHECK(slurp(folder / "events.jsonl").find("replay-differs") == std::string::npos);
  const auto whole = metrics_of(home, 2);
  CHECK(whole.size() > 40);
  CHECK(metrics_of(home, 1) == whole);
  const fs::path adapter = fs::path("adapter") / "adapter_model.safetensors";
  CHECK(slurp(folder / adapter) == slurp(fs::path(home.run(2).folder) / adapter));
}

TEST_CASE("two ranks on two nodes by srun are one within float summation; one that is killed is named") {
  const Cluster& cluster = Cluster::get();
  if (!cluster.there()) return;
  if (!fs::exists(Home::program().parent_path() / "libassay_mpi.so")) {
    WARN("SKIPPED: there is no libassay_mpi.so (libopenmpi-dev)");
    return;
  }
  SlurmHome home(cluster, "ranks");
  const std::string two_nodes = "schedule.slurm_options=[\"--nodes=2\",\"--ntasks-per-node=1\"]";
  add_e13(home, {"--slurm", "--set", "train.ranks=2", "--set", two_nodes, "--set", "train.steps=2"});
  add_e13(home, {"--set", "train.steps=2"});
  REQUIRE(home.assay({"wait", "1", "2"}).code == 0);
  CHECK(cluster.ask("scontrol show job " + job_of(home, 1)).find("NodeList=[1-2]") != std::string::npos);
  const auto two = metrics_of(home, 1), one = metrics_of(home, 2);
  REQUIRE(two.size() == one.size());
  for (const auto& [place, value] : one) {
    INFO(place.first << " " << place.second);
    REQUIRE(two.count(place) == 1);
    if (place.first <= 1) CHECK(two.at(place) == Approx(value).epsilon(1e-4).margin(1e-6));
  }

  add_e13(home, {"--slurm", "--set", "train.ranks=2", "--set", two_nodes, "--set", "train.steps=100000", "--set", "eval.test_freq=100000"});
  REQUIRE(eventually([&] { return home.run(3).state.kind == registry::StateKind::running && has_step(home, 3, 1); }, 600));
  const auto victims = ranks_of(home, 3, 1);
  REQUIRE(victims.size() == 1);
  REQUIRE(::kill(victims.front(), SIGKILL) == 0);
  CHECK(home.assay({"wait", "3"}).code == 4);
  CHECK(home.state(3) == "failed");
  CHECK_THAT(home.run(3).state.detail, Catch::Contains("rank 1 of 2 was ended by a signal"));
  CHECK(ranks_of(home, 3, 0).empty());
}

// Not among the tests that run by themselves: MariaDB and slurmdbd take their time. slurm_tests "[accounting]"
TEST_CASE("where there is accounting, its figures become an event of the run", "[.][accounting]") {
  const Cluster cluster("r-slurm-cluster-accounting", "--accounting");
  if (!cluster.there()) return;
  const SlurmHome home(cluster, "accounting");
  home.series("s", {{"a", "metric 1; head -c 60000000 /dev/zero | tail -c 60000000 | (sleep 4; wc -c)"}, {"b", "metric 1; exit 3"},
                    {"c", "metric 1; touch $GATES/up; gate never"}});
  REQUIRE(home.assay({"add", "s", "--slurm"}).code == 0);
  REQUIRE(eventually([&] { return home.state(3) == "running" && up(home, "up"); }));
  cluster.ask("scancel " + job_of(home, 3));
  CHECK(home.assay({"wait", "s"}).code == 4);
  CHECK(home.state(1) == "succeeded");
  CHECK(home.state(2) == "failed");
  CHECK(home.state(3) == "killed");
  const auto figures = [&](std::int64_t number) {
    for (const auto& event : home.registry().events(number))
      if (event.kind == "slurm_accounting") return json::parse(event.data_json);
    return json();
  };
  const json a = figures(1), b = figures(2), c = figures(3);
  INFO(a << "\n" << b << "\n" << c);
  REQUIRE((a.is_object() && b.is_object() && c.is_object()));
  CHECK(a.at("job") == job_of(home, 1));
  CHECK(a.at("state") == "COMPLETED");
  CHECK(a.at("elapsed") >= 4);
  CHECK(a.at("max_rss") > 60'000'000);
  CHECK(c.at("state") == "CANCELLED");
}

TEST_CASE("what sbatch refuses is the run's failure, in its words") {
  const Cluster& cluster = Cluster::get();
  if (!cluster.there()) return;
  const SlurmHome home(cluster, "refused");
  home.series("s", {{"a", "metric 1"}}, "\"schedule.slurm_options\" = [\"--partition=nonesuch\"]");
  REQUIRE(home.assay({"add", "s", "--slurm"}).code == 0);
  CHECK(home.assay({"wait", "s"}).code == 4);
  CHECK(home.state(1) == "failed");
  CHECK_THAT(home.run(1).state.detail, Catch::Contains("nonesuch") || Catch::Contains("partition"));
}

TEST_CASE("without sbatch a run for Slurm is refused before it is queued") {
  Home home("slurm-none");
  home.environment["PATH"] = "/nonesuch";
  home.series("s", {{"a", "metric 1"}});
  const Result result = home.assay({"add", "s", "--slurm"});
  CHECK(result.code != 0);
  CHECK(one_sentence(result.err));
  CHECK_THAT(result.err, Catch::Contains("slurm-client"));
  CHECK(home.registry().runs({}).empty());
}

TEST_CASE("what is said to Slurm, and what it says") {
  const json config = {{"train", {{"threads", 4}, {"device", "cuda"}}},
                       {"schedule", {{"memory", 2000}, {"gpus", 0}, {"time_limit", 61.0}, {"slurm_options", {"--partition=x"}}}}};
  CHECK(slurm::resources(config) == std::vector<std::string>{"--cpus-per-task=4", "--mem=2000M", "--gpus=1", "--time=4",
                                                             "--partition=x"});
  json ranks = config;
  ranks["train"]["ranks"] = 3;
  const auto has = [&](const char* word) {
    const auto words = slurm::resources(ranks);
    return std::count(words.begin(), words.end(), word) == 1;
  };
  CHECK((has("--ntasks=3") && has("--gpus-per-task=1")));  // a GPU where each rank is, and no number of them anywhere
  ranks["schedule"]["gpus"] = 6;
  CHECK(has("--gpus-per-task=2"));
  ranks["train"]["device"] = "cpu";
  CHECK(has("--gpus=6"));
  CHECK(slurm::script("/a b/assay", "/it's") == "#!/bin/sh\nexec '/a b/assay' slurm-task '/it'\\''s'\n");
  CHECK(slurm::job_of("17\n") == 17);
  CHECK(slurm::job_of("17;cluster\n") == 17);
  CHECK_FALSE(slurm::job_of("sbatch: error"));
  const auto rows = slurm::rows("1|2|PENDING|Resources||assay-x\n7|N/A|RUNNING|None|n1|other\nnoise\n1|3|RUNNING|None|n1|assay-x\n");
  REQUIRE(rows.size() == 2);
  CHECK(slurm::waits(rows[0]) == "Slurm: Resources");
  CHECK(rows[1].nodes == "n1");
  CHECK(slurm::phase("COMPLETING") == slurm::Phase::running);
  CHECK(slurm::phase("REQUEUED") == slurm::Phase::waiting);
  CHECK(slurm::phase("NODE_FAIL") == slurm::Phase::over);
  CHECK(slurm::without_record("NODE_FAIL", "1_2", "").kind == registry::StateKind::lost);
  CHECK(slurm::without_record("CANCELLED", "1_2", "anna").detail == "anna");
  CHECK(slurm::place_from_json(slurm::to_json({"n", 3, 17})) == slurm::Place{"n", 3, 17});
  CHECK_THROWS_AS(slurm::place_from_json("{}"), std::runtime_error);

  // A shell tells by its exit code how its command was ended.
  runner::ExitRecord record;
  record.kind = "exited";
  for (const auto& [code, cut_off] : std::map<int, bool>{{143, true}, {137, true}, {1, false}, {0, false}}) {
    record.code = code;
    CHECK(runner::by_signal_from_outside(record) == cut_off);
  }

  const auto job = slurm::accounted("1_2|CANCELLED by 1000|3:9|12|\n1_2.batch|FAILED|3:0|12|2048K\n1_2.0|FAILED|3:0|11|100.50K\n");
  REQUIRE(job);
  CHECK(job->state == "CANCELLED");
  CHECK(job->code == 3);
  CHECK(job->signal == 9);
  CHECK(job->elapsed == 12);
  CHECK(job->max_rss == 2 << 20);
  CHECK_FALSE(slurm::accounted("1_2|RUNNING|0:0|3|\n1_2.batch|RUNNING|0:0|3|\n"));
  CHECK_FALSE(slurm::accounted(""));
  const json event = json::parse(slurm::event_line({"n", 2, 1}, *job, 5));
  CHECK(event.at("message") == "Slurm's job 1_2: CANCELLED, exit code 3, signal 9, 12 s, at most 2 MiB");
  CHECK(event.at("data").at("max_rss") == 2 << 20);
}

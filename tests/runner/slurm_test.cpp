// Runs on a real Slurm of this machine (tests/slurm/start): states and metrics through kills, requeues and preemption.
#include "home.h"
#include "runner/executors/slurm_words.h"

using namespace assay;
using namespace assay::test;
namespace slurm = assay::runner::slurm;

namespace {

// One cluster for the whole program.
class Cluster {
 public:
  Cluster() : folder_(fresh_folder("r-slurm-cluster")) {
    code_ = run(script("start") + " " + folder_.string(), text_);
    if (code_ == 0) conf_ = text_.substr(0, text_.find('\n'));
  }
  ~Cluster() {
    std::string ignored;
    run(script("stop") + " " + folder_.string(), ignored);
  }
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
}

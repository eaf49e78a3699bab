// `assay add` through the small program in front and the warm process (runner/front) is `assay-cli add`: the same output,
// exit code and records.
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

#include "runner/client.h"
#include "runner/front/handover.h"
#include "tests/runner/home.h"

using namespace assay;
using namespace assay::test;

namespace {

// The warm process of a home, once there is one.
std::optional<pid_t> warm_of(const Home& home) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error))
    if (slurp(entry.path() / "comm").rfind("assay-warm ", 0) == 0 &&
        ('\0' + slurp(entry.path() / "environ")).find('\0' + ("ASSAY_HOME=" + home.data().string()) + '\0') != std::string::npos)
      return static_cast<pid_t>(std::stol(entry.path().filename().string()));
  return std::nullopt;
}

// How many commands it has carried out: its name says so.
int done_by(pid_t warm) { return std::stoi(slurp("/proc/" + std::to_string(warm) + "/comm").substr(11)); }

pid_t warmed_up(const Home& home) {
  home.series("first", {{"a", "metric 1"}});
  REQUIRE(home.assay({"add", "first"}).code == 0);
  REQUIRE(eventually([&] { return warm_of(home) && fs::is_socket(home.data() / "state" / "socket.add"); }));
  return *warm_of(home);
}

Result by_shell(const Home& home, const std::string& before, const std::string& program, const std::string& behind) {
  const fs::path out = home.folder / "shell.out", err = home.folder / "shell.err";
  const std::string command = "cd '" + (home.folder / "work").string() + "' && export ASSAY_HOME='" + home.data().string() +
                              "' ASSAY_SLOTS=2 ASSAY_EXPERIMENTS='" + (home.folder / "series").string() + "' && " + before + " '" +
                              (Home::program().parent_path() / program).string() + "' " + behind;
  const int status = std::system(("(" + command + ") > '" + out.string() + "' 2> '" + err.string() + "'").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), slurp(out), slurp(err)};
}

std::string without(std::string text, const std::string& name) {
  for (std::size_t at; (at = text.find(name)) != std::string::npos;) text.replace(at, name.size(), "HOME");
  return text;
}

// What is frozen of a run, less what is of the moment.
json frozen(const Home& home, const fs::path& folder) {
  json all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    struct stat status {};
    if (::stat(entry.path().c_str(), &status) != 0 || (status.st_mode & 0222) != 0) continue;   // frozen: read-only
    json& file = all[name];
    const std::string text = without(slurp(entry.path()), home.folder.string());
    file = {{"mode", status.st_mode}, {"text", name == "config.sha256" ? "" : text}};
    if (name == "run.json") {
      json run = json::parse(text);
      run.erase("batch");
      run.erase("created");
      run.erase("programs");   // the scripts' hashes have the home's name in them
      file["text"] = run;
    }
  }
  return all;
}

// A folder outside of every repository: one is looked through each time, and nothing is remembered.
struct Outside {
  Outside() {
    std::string name = (fs::canonical(fs::temp_directory_path()) / "assay-front-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Outside() { fs::remove_all(path); }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;
  fs::path path;
};

// A command that the daemon has kept, given outside of every repository: `add x` of one run, which does not start.
struct Kept {
  explicit Kept(const Home& at) : home(at), warm(warmed_up(home)) {
    REQUIRE(home.assay({"group", "held", "0"}).code == 0);
    spill(outside.path / "x.toml", "[series]\nid = \"x\"\n[base.trainer]\nkind = \"command\"\nargv = [\"true\"]\n[[run]]\nid = \"r\"\n");
    REQUIRE(add().out == "2 r s1\n");
    REQUIRE(add().out == "3 r s1\n");
    REQUIRE(times() == 1);
  }
  Result add(const std::string& program = "assay", const std::string& more = "") const {
    return by_shell(home, "cd '" + outside.path.string() + "'; export ASSAY_EXPERIMENTS=.;", program, "add x --group held" + more);
  }
  // Submissions that the daemon did not need to be sent.
  int times() const { return json::parse(home.assay({"daemon", "status", "--json"}).out).at("submitted_again").get<int>(); }
  std::size_t runs() const { return home.registry().runs({}).size(); }

  // Gives the command while the daemon stands still, and calls `then` once it has been handed on and the warm process waits
  // for the next: from there on only the daemon can answer it.
  Result add_and_stop_between(const std::function<void(pid_t daemon)>& then) const {
    const pid_t daemon = home.daemon_pid().value();
    const int before = done_by(warm);
    REQUIRE(::kill(daemon, SIGSTOP) == 0);
    Result result;
    std::thread command([&] { result = add(); });
    const bool waits = eventually([&] {
      const std::string stat = slurp("/proc/" + std::to_string(warm) + "/stat");
      return done_by(warm) == before + 1 && stat.substr(stat.rfind(')') + 1, 3) == " S ";
    });
    then(daemon);
    command.join();
    REQUIRE(waits);
    return result;
  }

  const Home& home;
  const Outside outside;
  const pid_t warm;
};

}  // namespace

TEST_CASE("assay add by the warm process is assay-cli add: output, exit code and records") {
  const Home warm("front-warm"), cold("front-cold");
  const std::vector<const Home*> homes = {&warm, &cold};
  for (const Home* home : homes) {
    home->series("s", {{"a", "metric 1"}, {"b", "metric 1; exit 3"}});
    home->series("t", {{"c", "metric 1"}});
    spill(home->folder / "series" / "bad.toml", "[series]\nid = \"bad\"\n[base.train]\nstepps = 3\n[[run]]\nid = \"x\"\n");
    spill(home->folder / "work" / "here.toml", slurp(home->folder / "series" / "t.toml"));
    warmed_up(*home);
    REQUIRE(home->assay({"group", "held", "0"}).code == 0);
  }
  const pid_t process = *warm_of(warm);
  struct Line {
    const char* words;
    bool by_warm;   // carried out by the warm process
  };
  const std::vector<Line> lines = {
      {"add s --group held", true},
      {"add s --group held --json", true},
      {"add s --only b --seeds 1,2,3 --group held", true},
      {"add s/a --priority 7 --label k=v --label machine=x --group held", true},
      {"add here.toml --set train.steps=4 --set optimizer.lr=1e-4 --group held", true},
      {"add t --after 2 --after-any 3,4 --group held", true},
      {"add 2 --group held", true},
      {"add c --group held", true},
      {"add s t --group held", false},
      {"add s --doctor --group held", false},
      {"add", false},
      {"add --help", false},
      {"add s --seeds x", false},
      {"add s --nothing", false},
      {"add nowhere", false},
      {"add bad", false},
      {"add s --only z", false},
      {"add s --set train.stepps=3", false},
      {"add s --set train.steps", false},
      {"add s --label x", false},
      {"add s --after 99", false},
      {"add 99", false},
      {"add s --set train.threads=100000", false},
      {"add './no such.toml'", false},
      {"add ''", false},
      {"add s --group held", true},
  };
  for (const Line& line : lines) {
    INFO(line.words);
    const int before = done_by(process);
    const Result ours = by_shell(warm, "umask 027;", "assay", line.words);
    CHECK(done_by(process) - before == (line.by_warm ? 1 : 0));
    const Result theirs = by_shell(cold, "umask 027;", "assay-cli", line.words);
    CHECK(ours.code == theirs.code);
    CHECK(without(ours.out, warm.folder.string()) == without(theirs.out, cold.folder.string()));
    CHECK(without(ours.err, warm.folder.string()) == without(theirs.err, cold.folder.string()));
    if (line.by_warm) CHECK(ours.code == 0);
  }
  CHECK(warm_of(warm) == process);
  const auto runs = warm.registry().runs({}), others = cold.registry().runs({});
  REQUIRE(runs.size() == others.size());
  CHECK(runs.size() > 15);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    INFO("run " << runs[i].number);
    CHECK(runs[i].run == others[i].run);
    CHECK(runs[i].seed == others[i].seed);
    CHECK(runs[i].priority == others[i].priority);
    CHECK(runs[i].group == others[i].group);
    CHECK(runs[i].after == others[i].after);
    CHECK(runs[i].after_any == others[i].after_any);
    CHECK(without(runs[i].config_json, warm.folder.string()) == without(others[i].config_json, cold.folder.string()));
    CHECK(frozen(warm, runs[i].folder) == frozen(cold, others[i].folder));
  }
}

TEST_CASE("the warm process sees what the command sees: files as they are now, directory, environment, processors") {
  const Home home("front-guise");
  const pid_t process = warmed_up(home);
  // The same name, size and time of change, another content.
  const fs::path series = home.folder / "work" / "x.toml";
  const auto write = [&](const std::string& label) {
    spill(series, "[series]\nid = \"x\"\n[base.trainer]\nkind = \"command\"\nargv = [\"true\", \"" + label + "\"]\n[[run]]\nid = \"a\"\n");
    const timespec times[2] = {{1700000000, 0}, {1700000000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, series.c_str(), times, 0) == 0);
  };
  const auto config_of = [&](std::int64_t number) { return json::parse(home.run(number).config_json).at("trainer").at("argv"); };
  write("one");
  REQUIRE(by_shell(home, "", "assay", "add x.toml").code == 0);
  write("two");
  REQUIRE(by_shell(home, "", "assay", "add x.toml").code == 0);
  CHECK(config_of(2) == json{"true", "one"});
  CHECK(config_of(3) == json{"true", "two"});
  // Another directory with a file of that name, another list of folders.
  spill(home.folder / "other" / "x.toml", "[series]\nid = \"y\"\n[base.trainer]\nkind = \"command\"\nargv = [\"true\"]\n[[run]]\nid = \"b\"\n");
  REQUIRE(by_shell(home, "cd ../other;", "assay", "add x.toml").code == 0);
  CHECK(home.run(4).series == "y");
  REQUIRE(by_shell(home, "export ASSAY_EXPERIMENTS=../other;", "assay", "add x").code == 0);
  CHECK(home.run(5).series == "y");
  // One processor: recorded, so it is not for the warm process, which may use all that there are.
  if (CPU_COUNT([] { static cpu_set_t set; ::sched_getaffinity(0, sizeof set, &set); return &set; }()) > 1 &&
      std::system("command -v taskset > /dev/null") == 0) {
    REQUIRE(by_shell(home, "first=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//'); taskset -c $first", "assay", "add x.toml").code == 0);
    CHECK(json::parse(home.registry().facts(6)->environment_json).at("processor").at("usable") == 1);
  }
  // Nobody reads: as assay-cli.
  for (const char* program : {"assay", "assay-cli"}) {
    CHECK(by_shell(home, "", program, "add x.toml > /dev/full").code == 0);
    CHECK(by_shell(home, "", program, "add x.toml >&-").code == 0);
  }
  CHECK(warm_of(home) == process);
}

TEST_CASE("without the warm process, or without the daemon, assay add goes its own way, and the next is warm again") {
  const Home home("front-alone");
  const pid_t process = warmed_up(home);
  REQUIRE(::kill(process, SIGKILL) == 0);
  REQUIRE(eventually([&] { return warm_of(home) != process; }));
  CHECK(home.assay({"add", "first"}).out == "2 a s1\n");
  REQUIRE(eventually([&] { return warm_of(home).has_value(); }));
  const pid_t second = *warm_of(home);
  home.kill_daemon();
  CHECK(eventually([&] { return warm_of(home) != second; }));   // it goes with its daemon
  CHECK(home.assay({"add", "first"}).out == "3 a s1\n");        // which starts the next one
  REQUIRE(eventually([&] { return warm_of(home).has_value(); }));
  CHECK(home.assay({"wait", "first"}).code == 0);
  CHECK(home.assay({"daemon", "stop"}).code == 0);
  CHECK(eventually([&] { return !warm_of(home).has_value(); }));
}

TEST_CASE("a command that comes again is not prepared again, unless anything that it looks at has changed") {
  const Home home("front-memory");
  warmed_up(home);
  REQUIRE(home.assay({"group", "held", "0"}).code == 0);
  const Outside outside;
  const fs::path &top = outside.path, program = top / "program";
  fs::create_directories(top / "first");
  fs::create_directories(top / "real");
  fs::create_directories(top / "work");
  fs::create_directories(top / "elsewhere");
  fs::create_directory_symlink("real", top / "second");
  const auto put = [](const fs::path& file, const std::string& text) {
    spill(file, text);
    const timespec times[2] = {{1700000000, 0}, {1700000000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, file.c_str(), times, 0) == 0);
  };
  const auto executable = [&](const std::string& text) {
    put(program, "#!/bin/sh\n" + text + "\n");
    REQUIRE(::chmod(program.c_str(), 0755) == 0);
  };
  const auto base = [&](const std::string& word) {
    put(top / "real" / "y.toml", "[series]\nid = \"y\"\n[base.trainer]\nkind = \"command\"\nargv = [\"" + program.string() + "\", \"" + word +
                                     "\"]\n[[run]]\nid = \"a\"\n");
  };
  const auto series = [&](const fs::path& file, const std::string& title) {
    put(file, "[series]\nid = \"x\"\ntitle = \"" + title + "\"\nbase = \"y/a\"\n[[run]]\nid = \"r\"\n");
  };
  executable("one");
  base("one");
  series(top / "real" / "x.toml", "one");
  const std::string here = "cd '" + (top / "work").string() + "'; export ASSAY_EXPERIMENTS='" + (top / "first").string() + ":" +
                           (top / "second").string() + "';";
  const auto remembered = [&] {
    return json::parse(home.assay({"daemon", "status", "--json"}).out).at("submitted_again").get<int>();
  };
  std::int64_t last = 1;
  const auto add = [&](const std::string& before = "", const std::string& more = "") {
    const int former = remembered();
    const Result result = by_shell(home, here + before, "assay", "add x --group held" + more);
    REQUIRE(result.out == std::to_string(++last) + " r s1\n");
    return remembered() - former;
  };
  const auto title = [&] { return home.registry().series("x")->title; };
  const auto word = [&] { return json::parse(home.run(last).config_json).at("trainer").at("argv").at(1); };
  const auto programs = [&] { return json::parse(home.run(last).run_json).at("programs"); };

  CHECK(add() == 0);
  CHECK(add() == 1);
  const auto inode = [](const fs::path& folder) {
    struct stat status {};
    return ::stat(folder.c_str(), &status) == 0 ? status.st_ino : 0;
  };
  REQUIRE(eventually([&] { return inode(home.data() / ".next-run") != 0; }));
  const auto ahead = inode(home.data() / ".next-run");
  CHECK(add() == 1);
  CHECK(inode(home.run(last).folder) == ahead);
  {  // Another run all the same: what is frozen of it is of its own moment, and the rest is equal.
    const auto former = home.run(last - 1), now = home.run(last);
    CHECK(former.batch != now.batch);
    CHECK(json::parse(now.run_json).at("batch") == now.batch);
    CHECK(json::parse(slurp(fs::path(now.folder) / "run.json")).at("batch") == now.batch);
    CHECK(json::parse(slurp(fs::path(now.folder) / "run.json")).at("number") == last);
    json one = frozen(home, former.folder), other = frozen(home, now.folder);
    for (json* all : {&one, &other}) (*all).at("run.json").at("text").erase("number");
    CHECK(one == other);
    CHECK(now.config_json == former.config_json);
  }
  const auto seen = [&](const std::string& what) {
    INFO(what);
    CHECK(add() == 0);
    CHECK(add() == 1);
  };
  series(top / "real" / "x.toml", "two");
  seen("the series, of the same length and times");
  CHECK(title() == "two");
  base("two");
  seen("the series of its base");
  CHECK(word() == "two");
  const json before = programs();
  executable("two");
  seen("the program's text");
  CHECK(programs() != before);
  CHECK(programs().at(0).at("bytes") == before.at(0).at("bytes"));
  series(top / "first" / "x.toml", "three");
  seen("a file where it is looked for first");
  CHECK(title() == "three");
  fs::remove(top / "first" / "x.toml");
  seen("that it has gone");
  CHECK(title() == "two");
  series(top / "work" / "experiments" / "x.toml", "four");
  seen("a file below the working directory");
  CHECK(title() == "four");
  fs::remove_all(top / "work" / "experiments");
  fs::create_directories(top / "other");
  fs::copy_file(top / "real" / "y.toml", top / "other" / "y.toml");
  series(top / "other" / "x.toml", "five");
  fs::remove(top / "second");
  fs::create_directory_symlink("other", top / "second");
  seen("a link that leads elsewhere");
  CHECK(title() == "five");
  // Another environment, directory, mask or command line is another command, and the former is still known.
  CHECK(add("export ASSAY_ANY=1;") == 0);
  CHECK(add("cd ../elsewhere;") == 0);
  CHECK(add("", " --priority 3") == 0);
  CHECK(home.run(last).priority == 3);
  CHECK(add() == 1);
  CHECK(home.run(last).priority == 0);
  // What is refused is assay-cli's to say, and nothing has been added.
  REQUIRE(::chmod(program.c_str(), 0644) == 0);
  const Result refused = by_shell(home, here, "assay", "add x --group held"), theirs = by_shell(home, here, "assay-cli", "add x --group held");
  CHECK(refused.code == 3);
  CHECK(refused.err == theirs.err);
  REQUIRE(::chmod(program.c_str(), 0755) == 0);
  CHECK(add() == 0);
  // The daemon has let it go: eight others have come since.
  for (int i = 0; i < 8; ++i) CHECK(add("export ASSAY_OTHER=" + std::to_string(i) + ";") == 0);
  CHECK(add() == 0);
  CHECK(add() == 1);
  // A repository above it: its commit and its changes are recorded, each time.
  CHECK(json::parse(home.registry().facts(last)->code_json).at("user").is_null());
  for (const char* part : {"objects", "refs/heads"}) fs::create_directories(top / ".git" / part);
  put(top / ".git" / "HEAD", "ref: refs/heads/main\n");
  put(top / ".git" / "config", "[core]\n\trepositoryformatversion = 0\n\tbare = false\n");
  CHECK(add() == 0);
  CHECK(json::parse(home.registry().facts(last)->code_json).at("user").at("branch") == "main");
  CHECK(add() == 0);
}

TEST_CASE("a command that the daemon knows it answers itself, as assay-cli would print it") {
  const Home home("front-known");
  const Kept kept(home);
  CHECK(kept.add("assay", " --json").out == "{\"numbers\":[4]}\n");
  CHECK(kept.add("assay", " --json").out == "{\"numbers\":[5]}\n");
  CHECK(kept.add("assay", " --seeds 2,3").out == "6 r s2\n7 r s3\n");
  CHECK(kept.add("assay", " --seeds 2,3").out == "8 r s2\n9 r s3\n");
  CHECK(kept.times() == 3);
  CHECK(kept.add("assay-cli", " --json").out == "{\"numbers\":[10]}\n");
  CHECK(kept.add("assay-cli", " --seeds 2,3").out == "11 r s2\n12 r s3\n");
  CHECK(kept.times() == 3);
  // The warm process may die meanwhile: it has no part in the answer.
  const Result result = kept.add_and_stop_between([&](pid_t daemon) {
    CHECK(::kill(kept.warm, SIGKILL) == 0);
    CHECK(eventually([&] { return warm_of(home) != kept.warm; }));
    CHECK(::kill(daemon, SIGCONT) == 0);
  });
  CHECK(result.code == 0);
  CHECK(result.out == "13 r s1\n");
  CHECK(result.err.empty());
  CHECK(kept.runs() == 13);
  CHECK(home.run(13).run == "r");
}

TEST_CASE("a daemon that dies with a command in its hand has added nothing, and the command says what assay-cli says") {
  const Home home("front-lost");
  const Kept kept(home);
  const Result result = kept.add_and_stop_between([&](pid_t daemon) { CHECK(::kill(daemon, SIGKILL) == 0); });
  CHECK(result.code == 7);
  CHECK(result.out.empty());
  CHECK(result.err == "assay: daemon: it went away before it answered; type the command again, it will be started\n");
  CHECK(kept.add().out == "4 r s1\n");
  CHECK(kept.runs() == 4);
}

TEST_CASE("what the daemon refuses of a command that it knows, assay-cli says") {
  const Home home("front-refused");
  const Kept kept(home);
  // A folder that somebody else has put there.
  const fs::path folder = home.data() / "runs" / "x" / "000004-r-s1";
  spill(folder / "exit.json", "{}");
  const int done = done_by(kept.warm);
  const Result ours = kept.add(), theirs = kept.add("assay-cli");
  CHECK(ours.code != 0);
  CHECK(ours.err.find("is there already") != std::string::npos);
  CHECK(ours.code == theirs.code);
  CHECK(ours.out == theirs.out);
  CHECK(ours.err == theirs.err);
  CHECK(kept.runs() == 3);
  CHECK(eventually([&] { return done_by(kept.warm) == done; }));   // it counts what was done
  fs::remove_all(folder);
  const int times = kept.times();
  CHECK(kept.add().out == "4 r s1\n");   // sent whole, then known again
  CHECK(kept.times() == times);
  CHECK(kept.add().out == "5 r s1\n");
  CHECK(kept.times() == times + 1);

  // What no warm process sends: it is told that nothing was done, and the daemon goes on.
  runner::Paths paths;
  paths.data = home.data();
  auto client = runner::Client::connect_to_running(paths);
  REQUIRE(client);
  for (const json& number : {json(99), json("x"), json(nullptr)}) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    runner::Fd ours_end(ends[0]), passed(ends[1]);
    client->hand_on("submit", {{"kept", number}, {"batch", "b"}, {"created", "c"}, {"front", "text"}}, passed.get());
    passed.reset();
    runner::front::Answer answer{};
    REQUIRE(::recv(ours_end.get(), &answer, sizeof answer, MSG_WAITALL) == static_cast<ssize_t>(sizeof answer));
    CHECK(answer.done == 0);
    CHECK(::recv(ours_end.get(), &answer, 1, 0) == 0);
    std::optional<json> notice;
    CHECK(eventually([&] { return (notice = client->notice()).has_value(); }));
    CHECK(notice.value() == json{{"stepped_aside", number}});
  }
  CHECK(kept.add().out == "6 r s1\n");
  CHECK(kept.runs() == 6);
}

// `assay add` through the small program in front and the warm process (runner/front) is `assay-cli add`: the same output,
// exit code and records.
#include <sched.h>
#include <sys/stat.h>

#include <algorithm>

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
  // Outside of every repository: one is looked through each time, and nothing is remembered.
  std::string name = (fs::canonical(fs::temp_directory_path()) / "assay-front-XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  struct Outside {
    const fs::path path;
    ~Outside() { fs::remove_all(path); }
  } const outside{name};
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

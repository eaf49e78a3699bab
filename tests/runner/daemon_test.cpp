// The daemon itself: one at a time, clear refusals, nothing outside its folders.
#include "home.h"

using namespace assay;
using namespace assay::test;

TEST_CASE("a second daemon is refused in one sentence that names the first") {
  const Home home("second");
  REQUIRE(home.assay({"status"}).code == 0);
  const auto pid = home.daemon_pid();
  REQUIRE(pid);
  const Result second = home.assay({"daemon"});
  CHECK(second.code == 7);
  CHECK(one_sentence(second.err));
  CHECK_THAT(second.err, Catch::Contains("pid " + std::to_string(*pid)));
  CHECK(home.daemon_pid() == pid);
}

TEST_CASE("status and stop; runs go on while there is no daemon") {
  const Home home("stop");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go"}});
  CHECK_THAT(home.assay({"daemon", "status"}).out, Catch::Contains("no daemon"));
  CHECK_FALSE(home.daemon_pid());
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  const json status = json::parse(home.assay({"daemon", "status", "--json"}).out);
  CHECK(status.at("slots") == 2);
  CHECK(status.at("used") == 1);
  CHECK(status.at("pid") == *home.daemon_pid());
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  CHECK_FALSE(home.daemon_pid());
  const auto record = runner::read_supervisor(home.run_folders().at(0));
  REQUIRE(record);
  CHECK(runner::open_process(record->supervisor));
  CHECK(runner::open_process(record->trainer));
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
}

TEST_CASE("SIGTERM ends the daemon and leaves runs running") {
  const Home home("sigterm");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go"}});
  const pid_t daemon = home.start({"daemon", "--slots", "1"}, "daemon");
  REQUIRE(eventually([&] { return home.daemon_pid() == daemon; }));
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  REQUIRE(::kill(daemon, SIGTERM) == 0);
  CHECK(home.finish(daemon, "daemon").code == 0);
  const auto record = runner::read_supervisor(home.run_folders().at(0));
  REQUIRE(record);
  CHECK(runner::open_process(record->supervisor));
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
}

TEST_CASE("a data folder that cannot be written: one sentence") {
  Home home("unwritable");
  spill(home.folder / "file", "");
  home.environment["ASSAY_HOME"] = (home.folder / "file" / "home").string();   // root can write everywhere else
  for (const char* verb : {"status", "daemon"}) {
    const Result result = home.assay({verb});
    CHECK(result.code == 1);
    CHECK(one_sentence(result.err));
    CHECK_THAT(result.err, Catch::Contains("cannot be written"));
  }
}

TEST_CASE("a run folder that cannot be made: one sentence, and no run is left half queued") {
  const Home home("no-run-folder");
  home.series("s", {{"a", "metric 1"}});
  REQUIRE(home.assay({"status"}).code == 0);
  spill(home.data() / "runs" / "s", "a file where the series' folder should be");
  const Result result = home.assay({"run", "s"});
  CHECK(result.code == 1);
  CHECK(one_sentence(result.err));
  CHECK(home.registry().runs({}).empty());
}

TEST_CASE("a registry that is none: one sentence") {
  const Home home("no-registry");
  spill(home.data() / "registry.sqlite", "this is not a database, and long enough that nobody could take it for one");
  const Result result = home.assay({"status"});
  CHECK(result.code == 1);
  CHECK(one_sentence(result.err));
  CHECK_THAT(result.err, Catch::Contains("registry.sqlite"));
}

TEST_CASE("a socket path that is too long: one sentence that says what to set") {
  Home home("long");
  home.environment["ASSAY_HOME"] = (home.folder / std::string(120, 'x')).string();
  const Result result = home.assay({"status"});
  CHECK(result.code == 7);
  CHECK(one_sentence(result.err));
  CHECK_THAT(result.err, Catch::Contains("107 bytes") && Catch::Contains("ASSAY_HOME"));
}

TEST_CASE("without ASSAY_HOME everything lies in the XDG folders, and the socket in the runtime folder") {
  Home home("xdg");
  home.series("s", {{"a", "metric 1"}});
  const fs::path user = home.folder / "user";
  fs::create_directories(user / "run");
  home.environment["ASSAY_HOME"] = "";
  home.environment["HOME"] = user.string();
  home.environment["XDG_RUNTIME_DIR"] = (user / "run").string();
  REQUIRE(home.assay({"run", "s"}).code == 0);
  CHECK(fs::exists(user / ".local/share/assay/registry.sqlite"));
  CHECK(fs::exists(user / ".local/share/assay/runs/s/000001-a-s1/exit.json"));
  CHECK(fs::exists(user / ".local/share/assay/series/s/series.json"));
  CHECK(fs::exists(user / ".local/state/assay/daemon.log"));
  CHECK(fs::is_socket(user / "run/assay/socket"));
  CHECK((fs::status(user / "run/assay/socket").permissions() & fs::perms::all) ==
        (fs::perms::owner_read | fs::perms::owner_write));
  // Another shell without that variable finds the same daemon.
  home.environment["XDG_RUNTIME_DIR"] = "";
  CHECK(json::parse(home.assay({"daemon", "status", "--json"}).out).at("running") == true);
  CHECK(home.assay({"daemon", "stop"}).code == 0);
}

TEST_CASE("the daemon survives requests that are none") {
  const Home home("rubbish");
  REQUIRE(home.assay({"status"}).code == 0);
  const auto pid = home.daemon_pid();
  const std::string script =
      "import socket,sys\n"
      "for text in [b'\\n', b'{}\\n', b'[1]\\n', b'{\"op\": 3, \"protocol\": 1}\\n', b'{\"op\": \"kill\", \"protocol\": 1}\\n',\n"
      "             b'{\"op\": \"submit\", \"protocol\": 1, \"runs\": 7}\\n', b'\\xff\\xfe\\n', b'{\"protocol\": \"x\", \"op\": \"status\"}\\n']:\n"
      "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(text)\n"
      "    reply = s.makefile().readline(); assert '\"ok\":false' in reply, (text, reply)\n"
      "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'{\"op\": '); s.close()\n";
  spill(home.folder / "rubbish.py", script);
  if (std::system("command -v python3 >/dev/null") != 0) return report_skipped("rubbish requests", "no python3 here");
  const std::string command = "python3 '" + (home.folder / "rubbish.py").string() + "' '" +
                              (home.data() / "state" / "socket").string() + "'";
  CHECK(std::system(command.c_str()) == 0);
  CHECK(home.daemon_pid() == pid);
  CHECK(home.assay({"status"}).code == 0);
}

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

// A client waits a minute for a daemon that it has started, and what was written meanwhile may take longer to read.
TEST_CASE("a daemon answers before it has read all that was written while there was none") {
  const Home home("much-to-read");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates" / "up"); }));
  REQUIRE(home.assay({"daemon", "stop"}).code == 0);
  std::int64_t last = 1;
  {
    std::ofstream out(home.run_folders().at(0) / "metrics.jsonl", std::ios::binary | std::ios::app);
    std::string values;
    for (int key = 0; key < 2000; ++key) values += (key == 0 ? "\"m/" : ", \"m/") + std::to_string(key) + "\": 0." + std::to_string(key);
    while (out.tellp() < (40 << 20)) out << "{\"step\": " << ++last << ", \"time\": 1.5, \"metrics\": {" << values << "}}\n";
    REQUIRE(out.good());
  }
  home.open_gate("go");
  REQUIRE(eventually([&] { return fs::exists(home.run_folders().at(0) / "exit.json"); }));

  const pid_t daemon = home.start({"daemon"}, "daemon");
  REQUIRE(eventually([&] { return json::parse(home.assay({"daemon", "status", "--json"}).out).at("running").get<bool>(); }));
  CHECK(home.assay({"wait", "1"}).code == 0);
  // How much was left when the first question came hangs on the machine; what came first does not.
  const std::string log = slurp(home.data() / "state" / "daemon.log");
  const auto listens = log.find("listens at", log.find("1 runs taken up"));
  REQUIRE(listens != std::string::npos);
  CHECK(log.find("run 1 succeeded") > listens);
  CHECK(home.state(1) == "succeeded");
  CHECK(home.registry().progress(1).step == last);
  CHECK(json::parse(home.assay({"daemon", "status", "--json"}).out).at("restoring") == 0);
  REQUIRE(::kill(daemon, SIGTERM) == 0);
  CHECK(home.finish(daemon, "daemon").code == 0);
}

TEST_CASE("stop --kill ends what runs and leaves what waits") {
  const Home home("stop-kill");
  home.series("s", {{"a", "metric 1; touch $GATES/up-a; gate never"}, {"b", "metric 1; touch $GATES/up-b; gate never"},
                    {"c", "echo x >> $GATES/ran-c; metric 1"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates/up-a") && fs::exists(home.folder / "gates/up-b"); }));
  const Result result = home.assay({"daemon", "stop", "--kill", "--grace", "1"});
  CHECK(result.code == 0);
  CHECK_FALSE(home.daemon_pid());
  CHECK(home.state(1) == "killed");
  CHECK(home.state(2) == "killed");
  CHECK_THAT(home.run(1).state.detail, Catch::Contains("stop --kill"));
  CHECK(home.state(3) == "queued");
  CHECK_FALSE(fs::exists(home.folder / "gates/ran-c"));
  CHECK(home.assay({"wait", "3"}).code == 0);   // the next daemon goes on with the queue
  CHECK(home.assay({"daemon", "stop", "--grace", "1"}).code == 2);
}

TEST_CASE("an upgrade: a new program takes over from the old one's daemon, its runs go on") {
  Home home("upgrade");
  home.series("s", {{"a", "echo x >> $GATES/ran; metric 1; touch $GATES/up; gate go; metric 2"}});
  const fs::path old_program = home.folder / "bin-1" / "assay", new_program = home.folder / "bin-2" / "assay";
  for (const fs::path& program : {old_program, new_program}) {
    fs::create_directories(program.parent_path());
    for (const char* name : {"assay", "assay-cli"}) fs::copy_file(Home::program().parent_path() / name, program.parent_path() / name);
  }
  const std::string run = "cd " + (home.folder / "work").string() + " && ASSAY_HOME=" + home.data().string() +
                          " ASSAY_EXPERIMENTS=" + (home.folder / "series").string() + " ";
  REQUIRE(std::system((run + old_program.string() + " add s > /dev/null").c_str()) == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates/up"); }));
  const auto before = home.daemon_pid();
  REQUIRE(before);
  CHECK(fs::read_symlink("/proc/" + std::to_string(*before) + "/exe") == old_program.parent_path() / "assay-cli");
  fs::remove_all(old_program.parent_path());   // as a package manager does
  REQUIRE(std::system((run + new_program.string() + " daemon restart > /dev/null").c_str()) == 0);
  const auto after = home.daemon_pid();
  REQUIRE(after);
  CHECK(*after != *before);
  CHECK(fs::read_symlink("/proc/" + std::to_string(*after) + "/exe") == new_program.parent_path() / "assay-cli");
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);
  CHECK(count_lines(home.folder / "gates/ran") == 1);
  CHECK(home.registry().metrics(1).size() == 2);
}

TEST_CASE("a daemon whose data folder is deleted, moved or replaced ends by itself, and runs go on") {
  Home home("deleted");
  home.series("s", {{"a", "metric 1; touch $GATES/up; gate go; touch $GATES/through"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  REQUIRE(eventually([&] { return fs::exists(home.folder / "gates/up"); }));
  const auto first = home.daemon_pid();
  REQUIRE(first);
  const auto identity = runner::identify(*first);
  REQUIRE(identity);
  const fs::path data = home.data(), elsewhere = home.folder / "moved";
  fs::rename(data, elsewhere);
  REQUIRE(home.assay({"status"}).code == 0);   // another home of that name, with a daemon of its own
  const auto second = home.daemon_pid();
  REQUIRE(second);
  CHECK(*second != *first);
  CHECK(eventually([&] { return !runner::open_process(*identity); }, 30));
  CHECK_THAT(slurp(elsewhere / "state" / "daemon.log"), Catch::Contains("deleted or replaced") && Catch::Contains("runs go on"));
  CHECK(home.assay({"daemon", "status"}).code == 0);   // it took nobody's socket with it
  CHECK(home.daemon_pid() == second);
  const auto other = runner::identify(*second);
  REQUIRE(other);
  fs::remove_all(data);
  CHECK(eventually([&] { return !runner::open_process(*other); }, 30));
  fs::rename(elsewhere, data);
  CHECK_FALSE(fs::exists(home.folder / "gates/through"));
  home.open_gate("go");
  CHECK(home.assay({"wait", "1"}).code == 0);   // the next daemon takes it up
}

TEST_CASE("a client of another version is told what to type, and can still stop the daemon") {
  const Home home("versions");
  REQUIRE(home.assay({"status"}).code == 0);
  const auto socket_of = [&] { return (home.data() / "state" / "socket").string(); };
  const auto ask = [&](const std::string& request) {
    const std::string command = "python3 -c \"import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
                                "s.sendall(sys.argv[2].encode()+b'\\n'); print(s.makefile().readline())\" '" +
                                socket_of() + "' '" + request + "' > " + (home.folder / "reply").string();
    REQUIRE(std::system(command.c_str()) == 0);
    return json::parse(slurp(home.folder / "reply"));
  };
  if (std::system("command -v python3 >/dev/null") != 0) return report_skipped("versions", "no python3 here");
  const json refused = ask(R"({"protocol": 999, "op": "status"})");
  CHECK(refused.at("ok") == false);
  CHECK_THAT(refused.at("error").get<std::string>(), Catch::Contains("assay daemon restart"));
  CHECK(ask(R"({"protocol": 999, "op": "stop"})").at("ok") == true);
  CHECK(eventually([&] { return !home.daemon_pid(); }));
}

TEST_CASE("the systemd unit: stops the daemon alone, starts this program with this home") {
  Home home("unit");
  const std::string unit = home.assay({"daemon", "unit"}).out;
  CHECK_THAT(unit, Catch::Contains("\nKillMode=process\n") && Catch::Contains("\nOOMPolicy=continue\n"));
  CHECK_THAT(unit, Catch::Contains("ExecStart=\"" + fs::canonical(Home::program()).string() + "\" daemon\n"));
  CHECK_THAT(unit, Catch::Contains("Environment=\"ASSAY_HOME=" + home.data().string() + "\"\n"));
  home.environment["XDG_CONFIG_HOME"] = (home.folder / "config").string();
  CHECK(home.assay({"daemon", "unit", "--install"}).code == 0);
  const fs::path file = home.folder / "config/systemd/user/assay.service";
  CHECK(slurp(file) == unit);
  if (std::system("command -v systemd-analyze >/dev/null") != 0) return report_skipped("the unit", "no systemd here");
  CHECK(std::system(("XDG_RUNTIME_DIR='" + home.folder.string() + "' systemd-analyze verify --user --man=no '" + file.string() + "'").c_str()) == 0);
}

TEST_CASE("a command inside a run does not start a daemon that would end with the run") {
  Home home("inside");
  home.environment["ASSAY_RUN_DIR"] = "/somewhere";
  const Result result = home.assay({"status"});
  CHECK(result.code == 7);
  CHECK(one_sentence(result.err));
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

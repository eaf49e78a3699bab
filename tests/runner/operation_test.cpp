// What an administrator sees: who may talk to the daemon, what is never stored, completions and the manual page.
#include "home.h"

using namespace assay;
using namespace assay::test;

namespace {

std::string script_output(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
  ::pclose(pipe);
  return text;
}

bool installed(const char* program) {
  return std::system((std::string("command -v ") + program + " >/dev/null").c_str()) == 0;
}

}  // namespace

TEST_CASE("secrets in the environment are in no file of assay's") {
  Home home("secrets");
  const std::string secret = "s3cr3t-" "9876543210";   // in two pieces: this very file may be in a diff of a dirty tree
  for (const char* name : {"HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "PLAIN"})
    home.environment[name] = secret + name;
  home.series("s", {{"a", "test -n \"$HF_TOKEN\" && metric 1"}});   // the trainer has it
  REQUIRE(home.assay({"run", "s"}).code == 0);
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(home.data())) {
    if (!entry.is_regular_file()) continue;
    ++files;
    CAPTURE(entry.path());
    CHECK(slurp(entry.path()).find(secret) == std::string::npos);
  }
  CHECK(files > 10);
}

TEST_CASE("untracked files that look like secrets are named in the diff, and not copied") {
  Home home("secret-files");
  home.series("s", {{"a", "metric 1"}});
  const fs::path work = home.folder / "work";
  const std::string git = "git -C '" + work.string() + "' -c user.name=a -c user.email=a@b ";
  spill(work / "code.py", "print(1)\n");
  REQUIRE(std::system((git + "init -q && " + git + "add . && " + git + "commit -qm first").c_str()) == 0);
  for (const char* name : {".env", ".env.local", "id_rsa", "server.pem", "credentials.json", ".netrc"})
    spill(work / name, "TOKEN=s3cr3t-0123456789\n");
  spill(work / "new.py", "print(2)\n");
  REQUIRE(home.assay({"run", "s"}).code == 0);
  const std::string diff = slurp(fs::path(home.run(1).folder) / "dirty.diff");
  CHECK_THAT(diff, Catch::Contains("+print(2)"));
  for (const char* name : {".env", "id_rsa", "server.pem", "credentials.json"}) CHECK_THAT(diff, Catch::Contains(name));
  CHECK_THAT(diff, !Catch::Contains("s3cr3t"));
}

TEST_CASE("a submission that would leave its folder is refused") {
  const Home home("escape");
  if (!installed("python3")) return report_skipped("escape", "no python3 here");
  REQUIRE(home.assay({"status"}).code == 0);
  const std::string script =
      "import json, socket, sys\n"
      "run = {'run': 'a', 'seed': 1, 'batch': 'b', 'config': '{\"train\":{\"threads\":1,\"steps\":1},\"trainer\":{\"kind\":\"command\"},\"schedule\":{}}',\n"
      "       'config_sha256': 'x', 'derived': '{}', 'run_json': '{}', 'inputs': '{}', 'priority': 0, 'after': [], 'doctor': ''}\n"
      "def ask(series, name, file):\n"
      "    request = {'protocol': 1, 'op': 'submit', 'series': {'id': series, 'title': '', 'goal': '', 'json': '{}'}, 'code': '{}',\n"
      "               'environment': '{}', 'files': [{'name': file, 'bytes': 'x'}], 'runs': [dict(run, run=name)]}\n"
      "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(json.dumps(request).encode() + b'\\n')\n"
      "    return json.loads(s.makefile().readline())\n"
      "for series, name, file in [('../out', 'a', 'f'), ('s', '../../out', 'f'), ('s', 'a', '../../../out'), ('s', 'a', '/tmp/assay-out'),\n"
      "                           ('', 'a', 'f'), ('.', 'a', 'f'), ('s', 'a' * 300, 'f'), ('s', 'a\\nb', 'f'), ('s/t', 'a', 'f')]:\n"
      "    reply = ask(series, name, file)\n"
      "    assert reply['ok'] is False, (series, name, file, reply)\n";
  spill(home.folder / "escape.py", script);
  CHECK(std::system(("python3 '" + (home.folder / "escape.py").string() + "' '" +
                     (home.data() / "state" / "socket").string() + "'").c_str()) == 0);
  CHECK(home.registry().runs({}).empty());
  CHECK_FALSE(fs::exists(home.data() / "out"));
  CHECK_FALSE(fs::exists(home.folder / "out"));
  CHECK_FALSE(fs::exists("/tmp/assay-out"));
}

TEST_CASE("another user is turned away") {
  const Home home("stranger");
  if (::geteuid() != 0 || !installed("python3") || !installed("setpriv"))
    return report_skipped("another user", "only root can be another user");
  REQUIRE(home.assay({"status"}).code == 0);
  const fs::path socket = home.data() / "state" / "socket";
  // The file's mode keeps strangers out; should somebody widen it, the daemon itself still does.
  fs::permissions(socket, fs::perms::all);
  const std::string script = "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
                             "s.sendall(b'{\"protocol\": 1, \"op\": \"status\"}\\n'); print(len(s.makefile().readline()))\n";
  spill(home.folder / "stranger.py", script);
  const std::string ask = "python3 '" + (home.folder / "stranger.py").string() + "' '" + socket.string() + "' 2>&1";
  CHECK(std::stoi(script_output(ask)) > 10);
  const std::string stranger = script_output("setpriv --reuid 65534 --regid 65534 --clear-groups " + ask);
  CHECK((stranger == "0\n" || stranger.find("Permission") != std::string::npos || stranger.find("reset") != std::string::npos));
}

TEST_CASE("completions say what the program does") {
  const Home home("completions");
  const std::string help = home.assay({"--help"}).out;
  for (const char* shell : {"bash", "zsh", "fish"}) {
    CAPTURE(shell);
    const std::string text = home.assay({"completions", shell}).out;
    for (const char* word : {"add", "status", "daemon", "restart", "completions", "--json", "--slots", "--grace"}) {
      const std::string wanted = std::string(shell) == "fish" && word[0] == '-' ? "-l " + std::string(word + 2) : word;
      CHECK_THAT(text, Catch::Contains(wanted));
    }
    CHECK_THAT(text, !Catch::Contains("supervise"));
    spill(home.folder / shell, text);
    if (installed(shell)) CHECK(std::system((std::string(shell) + " -n '" + (home.folder / shell).string() + "'").c_str()) == 0);
  }
  CHECK(home.assay({"completions", "tcsh"}).code == 2);
  const auto complete = [&](const std::string& line, int at) {
    return script_output("bash -c 'source " + (home.folder / "bash").string() + "; COMP_WORDS=(" + line + "); COMP_CWORD=" +
                         std::to_string(at) + "; _assay; echo \"${COMPREPLY[*]}\"' 2>/dev/null");
  };
  CHECK(complete("assay da", 1) == "daemon\n");
  CHECK(complete("assay daemon re", 2) == "restart\n");
  CHECK_THAT(complete("assay daemon stop --", 3), Catch::Contains("--kill") && Catch::Contains("--grace"));
  CHECK_THAT(complete("assay follow --color n", 3), Catch::Equals("never\n"));
}

TEST_CASE("the manual page has every verb, and no fault that groff knows") {
  const Home home("man");
  const std::string page = home.assay({"man"}).out;
  for (const char* word : {"fBadd", "fBdaemon", "fBstop", "fBcompletions", "EXIT STATUS"}) CHECK_THAT(page, Catch::Contains(word));
  spill(home.folder / "assay.1", page);
  if (!installed("groff")) return report_skipped("groff", "it is not installed");
  CHECK(script_output("groff -man -Tutf8 -ww '" + (home.folder / "assay.1").string() + "' 2>&1 >/dev/null") == "");
}

TEST_CASE("daemon status in words and as JSON") {
  const Home home("details");
  REQUIRE(home.assay({"status"}).code == 0);
  const json status = json::parse(home.assay({"daemon", "status", "--json"}).out);
  CHECK(status.at("memory_bytes").get<double>() > 1e6);
  CHECK(status.at("registry_bytes").get<double>() > 1e4);
  CHECK(status.at("program_replaced") == false);
  CHECK(status.at("protocol") == 1);
  CHECK_THAT(home.assay({"daemon", "status"}).out, Catch::Contains("slots in use") && Catch::Contains("registry"));
}

// `assay serve` over real sockets: headers, escaping, tokens, streams. What a browser makes of it: browser.mjs.
#include <atomic>
#include <regex>
#include <set>
#include <thread>

#include "runner/web/access.h"
#include "tests/runner/home.h"
#include "tests/web/http.h"

using namespace assay;
using namespace assay::test;

namespace {

// A running `assay serve` of a home.
class Page {
 public:
  Page(const Home& home, const std::vector<std::string>& more = {}) : home_(home) {
    std::vector<std::string> words = {"serve", "--port", "0", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    fs::remove(home.folder / "serve.out");   // of a former one
    pid_ = home.start(words, "serve");
    REQUIRE(eventually([&] { return slurp(home.folder / "serve.out").find('\n') != std::string::npos; }));
    const json said = json::parse(slurp(home.folder / "serve.out"));
    port = said.at("port").get<int>();
    token = said.at("token").get<std::string>();
    url = said.at("url").get<std::string>();
  }
  ~Page() { stop(); }
  Result stop() {
    if (pid_ == 0) return {};
    ::kill(pid_, SIGTERM);
    const pid_t pid = std::exchange(pid_, 0);
    return home_.finish(pid, "serve");
  }
  Answer get(const std::string& target, const Headers& headers = {}) const { return ask(port, "GET", target, headers); }
  json read(const std::string& target) const {
    const Answer answer = get(target);
    INFO(target << " " << answer.body);
    CHECK(answer.status == 200);
    CHECK(answer.headers.at("content-type") == "application/json");
    return json::parse(answer.body);
  }
  Answer act(const std::string& what, const json& body, Headers headers = {}) const {
    headers.emplace("Content-Type", "application/json");
    headers.emplace("X-Assay-Token", token);
    return ask(port, "POST", "/api/actions/" + what, headers, body.dump());
  }

  int port = 0;
  std::string token, url;

 private:
  const Home& home_;
  pid_t pid_ = 0;
};

const std::string kHostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&";

}  // namespace

TEST_CASE("serve: the page's files come with a policy that lets nothing else run, and name nothing outside") {
  const Home home("serve-files");
  const Page page(home);
  const Answer index = page.get("/");
  REQUIRE(index.status == 200);
  CHECK(index.headers.at("content-type") == "text/html; charset=utf-8");
  std::set<std::string> files = {"/static/icon.svg"};
  const std::regex quoted("(/static/[0-9a-f]{16}/)[A-Za-z.]+"), imported("from '\\./([A-Za-z.]+)'|import\\('\\./([A-Za-z.]+)'\\)|'\\./([A-Za-z]+\\.(?:js|css))'");
  std::string folder;
  for (const char* target : {"/", "/run/1", "/series", "/compare", "/nowhere"}) {
    const std::string body = page.get(target).body;
    for (std::sregex_iterator at(body.begin(), body.end(), quoted), end; at != end; ++at) {
      folder = at->str(1);
      files.insert(at->str());
    }
  }
  std::set<std::string> read;
  while (read.size() < files.size())
    for (const std::string& file : std::set<std::string>(files)) {
      if (!read.insert(file).second) continue;
      const Answer answer = page.get(file);
      INFO(file);
      CHECK(answer.status == 200);
      const std::string type = answer.headers.at("content-type");
      CHECK(type == (file.ends_with(".js") ? "text/javascript; charset=utf-8" : file.ends_with(".css") ? "text/css; charset=utf-8" : "image/svg+xml"));
      // Our own files: no address elsewhere, no markup out of strings.
      if (file.find("uPlot") == std::string::npos) {
        std::string text = std::regex_replace(answer.body, std::regex("http://www\\.w3\\.org/2000/svg"), "");
        CHECK(text.find("://") == std::string::npos);
        for (const char* word : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("})
          CHECK(text.find(word) == std::string::npos);
      }
      if (file.ends_with(".js"))
        for (std::sregex_iterator at(answer.body.begin(), answer.body.end(), imported), end; at != end; ++at)
          for (const int group : {1, 2, 3})
            if (at->length(group) > 0) files.insert(folder + at->str(group));
      const Answer again = page.get(file, {{"If-None-Match", answer.headers.at("etag")}});
      CHECK(again.status == 304);
      CHECK(again.body.empty());
      CHECK(answer.headers.at("cache-control") == (file.starts_with(folder) ? "max-age=31536000, immutable" : "no-cache"));
    }
  CHECK(files.count(folder + "uPlot.js") == 1);
  CHECK(files.count(folder + "uPlot.css") == 1);
  CHECK(files.count(folder + "compare.js") == 1);
  CHECK(index.headers.at("cache-control") == "no-store");
  CHECK(page.get("/static/0123456789abcdef/app.js").headers.at("cache-control") == "no-cache");   // of another program
  CHECK(page.get(folder + "index.html").status == 404);

  // With every answer, whatever it is.
  for (const char* target : {"/", "/run/1", "/nowhere", "/api/state", "/api/runs/9", "/api/runs/x", "/static/none.js", "/static/app.js"}) {
    const Answer answer = page.get(target);
    INFO(target);
    const std::string policy = answer.headers.at("content-security-policy");
    CHECK_THAT(policy, Catch::Contains("default-src 'none'") && Catch::Contains("script-src 'self'") && Catch::Contains("style-src 'self'") &&
                           Catch::Contains("frame-ancestors 'none'") && !Catch::Contains("unsafe") && !Catch::Contains("*"));
    CHECK(answer.headers.at("x-content-type-options") == "nosniff");
    CHECK(answer.headers.at("referrer-policy") == "no-referrer");
    CHECK(answer.headers.count("access-control-allow-origin") == 0);
  }
  for (const auto& [target, script] : std::vector<std::pair<std::string, std::string>>{
           {"/", "runs"}, {"/?text=a", "runs"}, {"/run/1", "run"}, {"/series", "series"}, {"/series/e13/", "series"},
           {"/compare", "compare"}, {"/nowhere", "missing"}, {"/run/x", "missing"}, {"/compare/x", "missing"}}) {
    const Answer answer = page.get(target);
    INFO(target);
    CHECK_THAT(answer.body, Catch::Contains("src=\"" + folder + script + ".js\""));
    CHECK(answer.status == (script == "missing" ? 404 : 200));
  }
  // Nothing is compressed, whatever a browser says it can read.
  const Answer packed = page.get("/", {{"Accept-Encoding", "gzip, deflate, br"}});
  CHECK(packed.headers.count("content-encoding") == 0);
  CHECK(packed.headers.at("content-length") == std::to_string(packed.body.size()));
  CHECK(page.get("/nowhere").status == 404);
  CHECK(page.get("/static/none.js").status == 404);
  CHECK(page.get("/static/../../registry/registry.h").status == 404);
  CHECK(page.get("/static/..%2Fsite.h").status == 404);
  CHECK(page.get("/api/none").status == 404);
  for (const char* method : {"PUT", "DELETE", "PATCH", "OPTIONS", "POST"}) CHECK(ask(page.port, method, "/api/runs").status == 405);
}

TEST_CASE("serve: only names of this machine are answered") {
  const Home home("serve-host");
  const Page page(home);
  const std::string port = ":" + std::to_string(page.port);
  for (const std::string host : {"127.0.0.1", "localhost", "LOCALHOST", "[::1]", "192.168.1.7"})
    CHECK(page.get("/api/state", {{"Host", host + port}}).status == 200);
  for (const std::string host : {"evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:80", ""}) {
    const Answer answer = page.get("/api/state", {{"Host", host + port}});
    CHECK(answer.status == 403);
    CHECK_THAT(json::parse(answer.body).at("error").get<std::string>(), Catch::Contains("is not this server's"));
  }
}

TEST_CASE("serve: what users write is data, never markup") {
  const Home home("serve-hostile");
  home.series("s", {{"a", "echo '" + std::string("<script>alert(3)</script>") + "'; printf '\\377\\303' ; metric 1; exit 1"}});
  const fs::path file = home.folder / "series" / "s.toml";
  std::string text = slurp(file);
  text.insert(text.find("[base"), "title = '''" + kHostile + "'''\n");
  text.insert(text.find("baseline = \"\""), "title = '''" + kHostile + "'''\nhypothesis = '''" + kHostile + "'''\n");
  spill(file, text);
  REQUIRE(home.assay({"run", "s", "--label", "x=" + kHostile}).code == 4);
  const Page page(home);
  const json row = page.read("/api/runs").at("runs").at(0);
  CHECK(row.at("title") == kHostile);
  const json run = page.read("/api/runs/1");
  CHECK(run.at("hypothesis") == kHostile);
  CHECK(run.at("labels").at("x") == kHostile);
  CHECK(run.at("state") == "failed");
  CHECK(page.read("/api/series").at("series").at(0).at("title") == kHostile);
  const json log = page.read("/api/runs/1/log?name=stdout");
  CHECK_THAT(log.at("text").get<std::string>(), Catch::Contains("<script>alert(3)</script>"));
  CHECK(page.read("/api/compare?what=s").at("rows").at(0).at("description") == kHostile);
  // The page itself is the same for every run, but for one element of data, in which no markup can begin or end, and the
  // name of the script of its kind.
  const std::string begin = "<script type=\"application/json\" id=\"given\">", end = "</script>";
  const auto parted = [&](const std::string& target) {
    const std::string body = page.get(target).body;
    const std::size_t from = body.find(begin) + begin.size(), to = body.find(end, from);
    REQUIRE(to != std::string::npos);
    static const std::regex script("/(runs|run|series)\\.js");
    return std::pair(std::regex_replace(body.substr(0, from) + body.substr(to), script, "/page.js"), body.substr(from, to - from));
  };
  const auto [frame, given] = parted("/");
  CHECK(parted("/run/1").first == frame);
  CHECK(parted("/series/%3Cscript%3E").first == frame);
  CHECK(given.find('<') == std::string::npos);
  CHECK(json::parse(given).at("runs") == page.read("/api/runs?limit=40"));
  CHECK(json::parse(given).at("runs").at("runs").at(0).at("title") == kHostile);
  CHECK(json::parse(given).at("state").at("counts") == page.read("/api/state").at("counts"));
  const Answer refused = page.get("/api/series/%3Cscript%3E");
  CHECK(refused.status == 404);
  CHECK(refused.headers.at("content-type") == "application/json");
}

TEST_CASE("serve: lists by the page, by state, by words, in any order; bad requests are refused in a sentence") {
  const Home home("serve-list");
  home.series("s", {{"a", "metric 1"}, {"b", "metric 1; exit 3"}});
  home.series("t", {{"c", "metric 2"}});
  REQUIRE(home.assay({"run", "s", "--seeds", "1,2,3"}).code == 4);
  REQUIRE(home.assay({"run", "t"}).code == 0);
  const Page page(home);
  CHECK(page.read("/api/runs").at("total") == 7);
  const json two = page.read("/api/runs?sort=number&order=asc&offset=2&limit=2");
  CHECK(two.at("total") == 7);
  REQUIRE(two.at("runs").size() == 2);
  CHECK(two.at("runs").at(0).at("number") == 3);
  CHECK(page.read("/api/runs?state=failed").at("total") == 3);
  CHECK(page.read("/api/runs?state=failed&state=succeeded").at("total") == 7);
  CHECK(page.read("/api/runs?series=t").at("total") == 1);
  CHECK(page.read("/api/runs?text=c").at("total") == 1);
  CHECK(page.read("/api/runs?text=5").at("runs").at(0).at("number") == 5);
  CHECK(page.read("/api/runs?text=%25").at("total") == 0);
  CHECK(page.read("/api/runs?offset=100").at("runs").empty());
  const json counts = page.read("/api/state").at("counts");
  CHECK(counts.at("failed") == 3);
  CHECK(counts.at("succeeded") == 4);
  for (const char* bad : {"/api/runs?sort=folder", "/api/runs?state=happy", "/api/runs?limit=-1", "/api/runs?offset=x", "/api/runs/x",
                          "/api/runs/1/log?name=..%2Frun.json", "/api/compare"}) {
    const Answer answer = page.get(bad);
    INFO(bad << " " << answer.body);
    CHECK(answer.status == 400);
    CHECK_FALSE(json::parse(answer.body).at("error").get<std::string>().empty());
  }
  for (const char* none : {"/api/runs/99", "/api/runs/99/events", "/api/series/none", "/api/compare?what=none", "/api/runs/1/evaluations/7"})
    CHECK(page.get(none).status == 404);
}

TEST_CASE("serve: an evaluation's answers, with their questions only while the test file is the one measured on") {
  const Home home("serve-samples");
  const fs::path test = home.folder / "test.jsonl";
  spill(test, "{\"question\":\"1+1?\",\"answer\":\"#### 2\"}\n{\"question\":\"2+2?\",\"answer\":\"#### 4\"}\n");
  home.series("s", {{"a", "cd \"$ASSAY_RUN_DIR\"; mkdir -p eval\n"
      "printf '{\"index\":0,\"outcome\":\"correct\",\"completion\":\"#### 2\"}\\n{\"index\":1,\"outcome\":\"wrong\",\"completion\":\"<b>5\"}\\n' > eval/step-000000.jsonl\n"
      "echo '{\"step\":0,\"problems\":2,\"correct\":1,\"quant\":\"none\",\"trained_quant\":\"none\",\"data_sha256\":\"'$(sha256sum " + test.string() + " | cut -d' ' -f1)'\"}' > eval/tmp; mv eval/tmp eval/step-000000.json; metric 0"}},
      "\"data.test\" = \"" + test.string() + "\"");
  REQUIRE(home.assay({"run", "s"}).code == 0);
  const Page page(home);
  const json all = page.read("/api/runs/1/evaluations/0");
  REQUIRE(all.at("samples").size() == 2);
  CHECK(all.at("counts") == json{{"correct", 1}, {"wrong", 1}});
  CHECK(all.at("samples").at(1).at("question") == "2+2?");
  const json wrong = page.read("/api/runs/1/evaluations/0?outcome=wrong");
  CHECK(wrong.at("total") == 1);
  CHECK(wrong.at("samples").at(0).at("completion") == "<b>5");
  spill(test, "{\"question\":\"another\",\"answer\":\"#### 1\"}\n");
  const json changed = page.read("/api/runs/1/evaluations/0");
  CHECK_FALSE(changed.at("samples").at(0).contains("question"));
  CHECK_THAT(changed.at("questions").get<std::string>(), Catch::Contains("has changed"));
}

TEST_CASE("serve: the report of a series, a document of its own; two runs problem by problem; accuracies measured otherwise") {
  const Home home("serve-report");
  const auto script = [](const std::string& first, const std::string& second, int correct, const std::string& quant) {
    return "cd \"$ASSAY_RUN_DIR\"; mkdir -p eval\n"
           "printf '{\"index\":0,\"outcome\":\"" + first + "\",\"completion\":\"<i>4\"}\\n{\"index\":1,\"outcome\":\"" + second +
           "\",\"completion\":\"5\"}\\n{\"index\":2,\"outcome\":\"correct\",\"completion\":\"6\"}\\n' > eval/step-000001.jsonl\n"
           "echo '{\"step\":1,\"problems\":3,\"correct\":" + std::to_string(correct) + ",\"quant\":\"" + quant +
           "\",\"trained_quant\":\"none\",\"data_sha256\":\"d\"}' > eval/tmp; mv eval/tmp eval/step-000001.json; metric 1";
  };
  home.series("s", {{"a", script("wrong", "correct", 2, "none")}, {"b", script("correct", "wrong", 2, "mxfp4")}, {"c", "metric 1"}});
  const fs::path file = home.folder / "series" / "s.toml";
  std::string text = slurp(file);
  text.insert(text.find("[base"), "title = '''" + kHostile + "'''\n");
  spill(file, text);
  REQUIRE(home.assay({"run", "s", "--set", "train.steps=1"}).code == 0);
  const Page page(home);

  const Answer report = page.get("/series/s/report");
  REQUIRE(report.status == 200);
  CHECK(report.headers.at("content-type") == "text/html; charset=utf-8");
  CHECK_THAT(report.headers.at("content-security-policy"),
             Catch::Contains("default-src 'none'") && Catch::Contains("frame-ancestors 'self'") && !Catch::Contains("script-src"));
  CHECK(report.headers.at("x-frame-options") == "SAMEORIGIN");
  CHECK_THAT(report.body, Catch::Contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !Catch::Contains("<script") && Catch::Contains("assay run 2"));
  CHECK(home.assay({"report", "s", "--html"}).out == report.body);   // the very same
  CHECK_THAT(report.body, !Catch::Contains("wrong data"));
  REQUIRE(home.assay({"tag", "3", "excluded", "--why", "wrong data"}).code == 0);
  CHECK_THAT(page.get("/series/s/report").body, Catch::Contains("<td>excluded</td><td>wrong data</td>") && Catch::Contains("2 succeeded, 1 excluded"));
  REQUIRE(home.assay({"tag", "3", "excluded", "--remove"}).code == 0);
  CHECK(page.get("/series/s/report").body == report.body);
  CHECK(page.get("/series/none/report").status == 404);

  const json gained = page.read("/api/problems?first=1&second=2");
  CHECK(gained.at("step") == 1);
  CHECK(gained.at("steps") == json{1});
  CHECK(gained.at("gained") == 1);
  CHECK(gained.at("lost") == 1);
  CHECK(gained.at("both") == 1);
  CHECK(gained.at("p") == 1);
  REQUIRE(gained.at("rows").size() == 1);
  CHECK(gained.at("rows").at(0).at("index") == 0);
  CHECK(gained.at("rows").at(0).at("first") == json{{"outcome", "wrong"}, {"completion", "<i>4"}});
  CHECK(page.read("/api/problems?first=1&second=2&which=lost").at("rows").at(0).at("index") == 1);
  CHECK(page.read("/api/problems?first=1&second=2&which=lost&offset=1").at("rows").empty());
  CHECK(page.get("/api/problems?first=1&second=2&which=x").status == 400);
  CHECK(page.get("/api/problems?first=1").status == 400);
  CHECK(page.get("/api/problems?first=1&second=99").status == 404);
  CHECK(page.get("/api/problems?first=1&second=3").status == 404);   // nothing was measured of it

  // Marked wherever it is shown.
  CHECK(page.read("/api/runs/2").at("accuracy_other_quant") == true);
  CHECK(page.read("/api/runs/1").at("accuracy_other_quant") == false);
  const std::string status = home.assay({"status", "s"}).out;
  CHECK_THAT(status, Catch::Contains("66.7 %‡") && Catch::Contains("‡ measured under another quantization"));
  CHECK_THAT(home.assay({"compare", "s"}).out, Catch::Contains("66.7‡"));
}

TEST_CASE("serve: streams tell of steps, output and the end as they come, and of a daemon that goes away") {
  const Home home("serve-stream");
  home.series("s", {{"a", "metric 1; echo first; gate two; metric 2; echo second; gate three; metric 3"}});
  REQUIRE(home.assay({"add", "s"}).code == 0);
  const Page page(home);
  const std::string start = " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const Connection run(page.port), all(page.port);
  run.send("GET /api/runs/1/events?from=0&stdout=0" + start);
  all.send("GET /api/events" + start);
  std::string heard, overview;
  REQUIRE(run.read_until(heard, "event: points"));
  CHECK_THAT(heard, Catch::Contains("Content-Type: text/event-stream") && Catch::Contains("Content-Security-Policy"));
  REQUIRE(run.read_until(heard, "first\\n"));
  CHECK(heard.find("second") == std::string::npos);
  heard.clear();
  home.open_gate("two");
  REQUIRE(run.read_until(heard, "\"steps\":[1,2]"));   // the last step may have grown: it is told again
  REQUIRE(run.read_until(heard, "second\\n"));
  REQUIRE(all.read_until(overview, "event: runs"));
  heard.clear();
  home.open_gate("three");
  REQUIRE(run.read_until(heard, "\"state\":\"succeeded\""));
  home.kill_daemon();
  REQUIRE(all.read_until(overview, "{\"running\":false}"));
  CHECK(page.read("/api/state").at("daemon").at("running") == false);
  CHECK(page.read("/api/runs").at("total") == 1);
  REQUIRE(home.assay({"status"}).code == 0);           // starts one again
  overview.clear();
  REQUIRE(all.read_until(overview, "\"running\":true"));
}

TEST_CASE("serve: acts only when it was told so, for who has the token, from its own page") {
  const Home home("serve-act");
  home.series("s", {{"a", "metric 1; gate go"}, {"b", "metric 1"}});
  REQUIRE(home.assay({"add", "s", "--only", "a"}).code == 0);
  REQUIRE(eventually([&] { return home.state(1) == "running"; }));
  {
    Page page(home);
    CHECK(page.token.empty());
    CHECK(page.read("/api/state").at("actions") == false);
    CHECK(page.act("kill", {{"numbers", {1}}}).status == 403);
    const Result ended = page.stop();
    CHECK(ended.code == 0);
    CHECK(ended.err.empty());
  }
  const Page page(home, {"--allow-actions"});
  REQUIRE(page.token.size() == 64);
  CHECK(page.get("/").headers.at("cross-origin-opener-policy") == "same-origin");
  CHECK(page.url == "http://127.0.0.1:" + std::to_string(page.port) + "/#token=" + page.token);
  const std::string here = "http://127.0.0.1:" + std::to_string(page.port);
  const json kill = {{"numbers", {1}}};
  CHECK(page.act("kill", kill, {{"X-Assay-Token", ""}}).status == 403);
  CHECK(page.act("kill", kill, {{"X-Assay-Token", std::string(64, '0')}}).status == 403);
  CHECK(page.act("kill", kill, {{"Origin", "http://evil.example"}}).status == 403);
  CHECK(page.act("kill", kill, {{"Origin", "null"}}).status == 403);
  CHECK(page.act("kill", kill, {{"Origin", here}, {"Sec-Fetch-Site", "cross-site"}}).status == 403);
  CHECK(page.act("kill", kill, {{"Content-Type", "text/plain"}}).status == 403);
  CHECK(ask(page.port, "GET", "/api/actions/kill", {{"X-Assay-Token", page.token}}).status == 404);
  CHECK(home.state(1) == "running");
  CHECK(page.act("kill", {{"numbers", {99}}}).status == 404);
  CHECK(page.act("kill", {{"numbers", "all"}}).status == 400);
  CHECK(page.act("dance", json::object()).status == 404);
  CHECK(page.act("queue", {{"what", {"no-such-series"}}}).status == 400);
  CHECK(page.act("queue", json::object()).status == 400);

  CHECK(page.act("kill", kill, {{"Origin", here}, {"Sec-Fetch-Site", "same-origin"}}).status == 200);
  CHECK(eventually([&] { return home.state(1) == "killed"; }));
  const Answer again = page.act("retry", {{"number", 1}});
  INFO(again.body);
  REQUIRE(again.status == 200);
  CHECK(json::parse(again.body).at("numbers") == json{2});
  const Answer queued = page.act("queue", {{"what", {"s"}}, {"only", {"b"}}, {"seeds", {4, 5}}});
  INFO(queued.body);
  REQUIRE(queued.status == 200);
  CHECK(json::parse(queued.body).at("numbers") == json{3, 4});
  CHECK(eventually([&] { return home.state(3) == "succeeded" && home.state(4) == "succeeded"; }));
  CHECK(home.run(4).seed == 5);
  home.open_gate("go");
}

TEST_CASE("serve: a taken port is refused in a sentence; listening elsewhere than on loopback is said aloud") {
  const Home home("serve-port");
  const Page page(home);
  const Result taken = home.assay({"serve", "--port", std::to_string(page.port)});
  CHECK(taken.code == 1);
  CHECK(one_sentence(taken.err));
  CHECK_THAT(taken.err, Catch::Contains("--port"));
  const pid_t open = home.start({"serve", "--port", "0", "--host", "0.0.0.0"}, "open");
  REQUIRE(eventually([&] { return slurp(home.folder / "open.err").find('\n') != std::string::npos; }));
  ::kill(open, SIGINT);
  const Result said = home.finish(open, "open");
  CHECK(said.code == 0);
  CHECK_THAT(said.err, Catch::Contains("without password or encryption"));
}

TEST_CASE("a server that is told to stop does so, whether it serves already or not yet") {
  for (const int delay : {-1, 0, 0, 0, 0, 1, 2}) {   // ms; before it begins; at the same time; a little later
    runner::web::HttpServer server({}, [](const runner::web::Request&) { return runner::web::Response(); });
    if (delay < 0) server.stop();
    std::atomic<bool> ended = false;
    std::thread serving([&] {
      server.run();
      ended = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(std::max(delay, 0)));
    if (delay >= 0) server.stop();
    CHECK(eventually([&] { return ended.load(); }));
    if (!ended) server.stop();
    serving.join();
  }
}

TEST_CASE("access: loopback is told from the rest, and tokens differ") {
  CHECK(runner::web::is_loopback("127.0.0.1"));
  CHECK(runner::web::is_loopback("127.9.9.9"));
  CHECK(runner::web::is_loopback("::1"));
  CHECK_FALSE(runner::web::is_loopback("0.0.0.0"));
  CHECK_FALSE(runner::web::is_loopback("127.evil.example"));
  CHECK(runner::web::new_token() != runner::web::new_token());
}

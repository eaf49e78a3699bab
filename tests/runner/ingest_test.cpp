// Ingest against hostile and torn files, and against itself being cut off.
#include "runner/ingest.h"

#include <cmath>
#include <fstream>

#include "catch.h"

using namespace assay;
namespace fs = std::filesystem;

namespace {

struct Bench {
  explicit Bench(const std::string& name)
      : folder(test::fresh_folder("ingest-" + name)), run(folder / "run"),
        registry(registry::Registry::open(folder / "registry.sqlite", registry::Registry::Access::read_write)) {
    fs::create_directories(run / "eval");
    registry.put_series({"s", "", "", "{}"});
    registry::NewRun row;
    row.series = "s";
    row.run = "a";
    row.seed = 1;
    row.batch = "b";
    row.config_json = row.derived_json = row.run_json = row.code_json = row.environment_json = row.inputs_json = "{}";
    registry.add_runs({row}, [&](std::int64_t, const registry::NewRun&) { return run.string(); });
  }

  void append(const std::string& file, const std::string& text) const {
    std::ofstream(run / file, std::ios::binary | std::ios::app) << text;
  }
  std::vector<std::string> messages(const std::string& kind) const {
    std::vector<std::string> found;
    for (const registry::Event& event : registry.events(1))
      if (event.kind == kind) found.push_back(event.message);
    return found;
  }
  std::vector<double> values(const std::string& key) const {
    std::vector<double> found;
    for (const registry::MetricPoint& point : registry.metrics(1, key)) found.push_back(point.value);
    return found;
  }

  fs::path folder, run;
  registry::Registry registry;
};

}  // namespace

TEST_CASE("lines come in as they are written; a torn one waits for its end") {
  Bench bench("torn");
  runner::Ingest ingest(bench.registry, 1, bench.run, 20);
  CHECK_FALSE(ingest.poll());
  bench.append("metrics.jsonl", "{\"step\":1,\"time\":10,\"metrics\":{\"critic/score/mean\":0.25,\"a\":1}}\n{\"step\":2,\"ti");
  CHECK(ingest.poll());
  CHECK_FALSE(ingest.poll());
  CHECK(bench.values("a") == std::vector<double>{1});
  CHECK(bench.registry.progress(1).step == 1);
  CHECK(bench.registry.progress(1).score == 0.25);
  CHECK(bench.registry.progress(1).total_steps == 20);
  bench.append("metrics.jsonl", "me\":11,\"metrics\":{\"a\":2}}\n");
  CHECK(ingest.poll());
  CHECK(bench.values("a") == std::vector<double>{1, 2});
  CHECK(bench.registry.progress(1).last_time == 11);
  CHECK(bench.messages("bad_line").empty());
}

TEST_CASE("at the end a whole last line without its newline is taken, a torn one is left out without complaint") {
  Bench whole("whole-end"), torn("torn-end");
  whole.append("metrics.jsonl", "{\"step\":1,\"metrics\":{\"a\":1}}");
  torn.append("metrics.jsonl", "{\"step\":1,\"metrics\":{\"a\":1}}\n{\"step\":2,\"metr");
  runner::Ingest first(whole.registry, 1, whole.run, 1), second(torn.registry, 1, torn.run, 1);
  CHECK_FALSE(first.poll());
  CHECK(first.finish());
  CHECK(whole.values("a").size() == 1);
  CHECK(first.any_metrics());
  CHECK(second.finish());
  CHECK(torn.values("a").size() == 1);
  CHECK(torn.messages("bad_line").empty());
}

TEST_CASE("a bad line is told of with its place and passed over") {
  Bench bench("bad");
  bench.append("metrics.jsonl",
               "rubbish\n\n[1]\n{\"step\":-1,\"metrics\":{}}\n{\"step\":1,\"metrics\":{\"a\":\"many\"}}\n"
               "{\"step\":1,\"metrics\":{\"a\":\"nan\",\"b\":\"inf\",\"c\":\"-inf\",\"d\":3}}\n\xff\xfe\n");
  bench.append("events.jsonl", "{}\n{\"kind\":\"finding\",\"message\":\"m\",\"step\":1,\"time\":5,\"data\":{\"x\":1}}\n");
  runner::Ingest ingest(bench.registry, 1, bench.run, 1);
  ingest.finish();
  CHECK(bench.messages("bad_line").size() == 6);
  CHECK_THAT(bench.messages("bad_line").front(), Catch::Contains("metrics.jsonl, byte 0"));
  CHECK(bench.messages("finding") == std::vector<std::string>{"m"});
  CHECK(std::isnan(bench.values("a").at(0)));
  CHECK(bench.values("b").at(0) == HUGE_VAL);
  CHECK(bench.values("c").at(0) == -HUGE_VAL);
  CHECK(bench.values("d").at(0) == 3);
}

TEST_CASE("a log that is all rubbish, or one endless line, does not fill the registry") {
  Bench bench("rubbish");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "rubbish " + std::to_string(i) + "\n";
  bench.append("metrics.jsonl", text);
  bench.append("events.jsonl", std::string(3 << 20, 'x'));
  runner::Ingest ingest(bench.registry, 1, bench.run, 1);
  ingest.finish();
  CHECK(bench.registry.events(1).size() < 40);
}

TEST_CASE("a new ingest goes on where the last was cut off, and reading twice changes nothing") {
  Bench bench("again");
  bench.append("metrics.jsonl", "{\"step\":1,\"time\":1,\"metrics\":{\"a\":1}}\n");
  bench.append("events.jsonl", "{\"kind\":\"started\",\"time\":1,\"step\":0,\"message\":\"\",\"data\":{\"total_steps\":7}}\n");
  runner::Ingest(bench.registry, 1, bench.run, 20).poll();
  CHECK(bench.registry.progress(1).total_steps == 7);
  bench.append("metrics.jsonl", "{\"step\":2,\"time\":2,\"metrics\":{\"a\":2}}\n");
  runner::Ingest second(bench.registry, 1, bench.run, 20);
  CHECK(second.poll());
  CHECK(bench.values("a") == std::vector<double>{1, 2});
  CHECK(bench.registry.progress(1).total_steps == 7);
  CHECK_FALSE(second.finished_event());
  bench.registry.set_ingested_bytes(1, "metrics.jsonl", 0);
  bench.registry.set_ingested_bytes(1, "events.jsonl", 0);
  bench.append("events.jsonl", "{\"kind\":\"finished\",\"time\":3,\"step\":2,\"message\":\"\"}\n");
  runner::Ingest third(bench.registry, 1, bench.run, 20);
  CHECK(third.poll());
  CHECK(third.finished_event());
  CHECK(bench.values("a") == std::vector<double>{1, 2});
  CHECK(bench.registry.events(1).size() == 2);
  CHECK(runner::Ingest(bench.registry, 1, bench.run, 20).finished_event());
}

TEST_CASE("evaluations come in once their summary is there; one that contradicts itself is told of") {
  Bench bench("eval");
  runner::Ingest ingest(bench.registry, 1, bench.run, 20);
  bench.append("eval/step-000000.jsonl", "{\"index\":0,\"outcome\":\"correct\",\"format_right\":true,\"arithmetic_right\":true}\n"
                                         "{\"index\":1,\"outcome\":\"unparsable\"}\n");
  ingest.poll();
  CHECK(bench.registry.evaluations(1, false).empty());
  bench.append("eval/step-000000.json", "{\"step\":0,\"problems\":2,\"correct\":1,\"format_right\":1,\"arithmetic_right\":1,"
                                        "\"quant\":\"q\",\"trained_quant\":\"t\",\"data_sha256\":\"d\"}");
  CHECK(ingest.poll());
  const auto rows = bench.registry.evaluations(1, true);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].correct == 1);
  CHECK(rows[0].quant == "q");
  CHECK(rows[0].outcomes.at(0).format_right);
  CHECK(rows[0].outcomes.at(1).outcome == "unparsable");
  CHECK(bench.registry.progress(1).accuracy == 0.5);
  bench.append("eval/step-000020.jsonl", "{\"index\":0,\"outcome\":\"correct\"}\n");
  bench.append("eval/step-000020.json", "{\"step\":20,\"problems\":2,\"correct\":1}");
  bench.append("eval/step-000010.json", "{");
  ingest.finish();
  CHECK(bench.registry.evaluations(1, false).size() == 1);
  CHECK(bench.messages("bad_line").size() == 2);
}

TEST_CASE("documents are kept whole") {
  Bench bench("documents");
  bench.append("doctor.json", "{\"findings\":[]}");
  bench.append("quant-report.json", "{\"modules\":");
  runner::Ingest ingest(bench.registry, 1, bench.run, 20);
  ingest.poll();
  CHECK(bench.registry.document(1, "doctor") == "{\"findings\":[]}");
  CHECK_FALSE(bench.registry.document(1, "quant-report"));
  bench.append("quant-report.json", "[]}");
  ingest.poll();
  CHECK(bench.registry.document(1, "quant-report") == "{\"modules\":[]}");
}

TEST_CASE("hostile lines: nested without end, metrics without number, names without end; told of, and the rest goes on") {
  Bench bench("hostile");
  const std::string deep(400'000, '[');
  std::string many = "{\"step\":1,\"metrics\":{";
  for (int i = 0; i < 20'000; ++i) many += (i == 0 ? "\"m" : ",\"m") + std::to_string(i) + "\":1";
  bench.append("metrics.jsonl", deep + "\n{\"step\":1,\"metrics\":{\"a\":" + deep + std::string(400'000, ']') + "}}\n" +
                                    "{\"step\":1,\"x\":" + deep + std::string(400'000, ']') + ",\"metrics\":{}}\n" + many +
                                    "}}\n{\"step\":1,\"metrics\":{\"" + std::string(600, 'k') + "\":1}}\n" +
                                    "{\"step\":99999999999999999999,\"metrics\":{\"a\":1}}\n{\"step\":2,\"metrics\":{\"a\":1e400}}\n" +
                                    "{\"step\":3,\"metrics\":{\"good\":1}}\n");
  bench.append("events.jsonl", "{\"kind\":\"finding\",\"data\":" + deep + std::string(400'000, ']') + "}\n" +
                                   "{\"kind\":\"finding\",\"data\":{\"x\":\"" + std::string(100'000, 'x') + "\"}}\n" +
                                   "{\"kind\":\"" + std::string(1000, 'k') + "\",\"message\":\"" + std::string(10'000, 'm') + "\"}\n");
  runner::Ingest ingest(bench.registry, 1, bench.run, 1);
  ingest.finish();
  CHECK(bench.messages("bad_line").size() == 9);
  CHECK(bench.registry.metrics(1).size() == 1);
  CHECK(bench.values("good") == std::vector<double>{1});
  for (const registry::Event& event : bench.registry.events(1)) {
    CHECK(event.kind.size() < 200);
    CHECK(event.message.size() < 2100);
    CHECK(event.data_json.size() <= (64 << 10));
  }
}

TEST_CASE("a step's metrics may come in several lines; the last value of a name counts") {
  Bench bench("merge");
  bench.append("metrics.jsonl", "{\"step\":1,\"metrics\":{\"b\":1,\"a\":2,\"b\":3}}\n{\"step\":1,\"metrics\":{\"c\":4,\"a\":5}}\n");
  runner::Ingest ingest(bench.registry, 1, bench.run, 1);
  CHECK(ingest.anything_new());
  CHECK(ingest.poll());
  CHECK_FALSE(ingest.anything_new());
  CHECK(bench.values("a") == std::vector<double>{5});
  CHECK(bench.values("b") == std::vector<double>{3});
  CHECK(bench.values("c") == std::vector<double>{4});
}

TEST_CASE("after a rollback of the transaction around it, ingest begins again from what is recorded") {
  Bench bench("around");
  bench.append("metrics.jsonl", "{\"step\":1,\"metrics\":{\"a\":1}}\n");
  runner::Ingest ingest(bench.registry, 1, bench.run, 1);
  CHECK_THROWS(bench.registry.batch([&] {
    CHECK(ingest.poll());
    throw std::runtime_error("the disk is full");
  }));
  ingest.forget();
  CHECK(bench.registry.metrics(1).empty());
  CHECK_FALSE(ingest.any_metrics());
  CHECK(ingest.anything_new());
  CHECK(ingest.poll());
  CHECK(bench.values("a") == std::vector<double>{1});
}

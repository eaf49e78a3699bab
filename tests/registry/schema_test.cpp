// What is a registry, what is not, and how an old one becomes a new one.
#include <SQLiteCpp/SQLiteCpp.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "registry/schema.h"
#include "support/files.h"
#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::support::read_file;
using assay::support::write_file_atomically;
using assay::test::fresh_folder;
using assay::test::with_runs;
using Catch::Contains;
using Catch::StartsWith;
namespace fs = std::filesystem;

namespace {

Registry open(const fs::path& file) { return Registry::open(file, Registry::Access::read_write); }

std::string refusal(const fs::path& file, Registry::Access access = Registry::Access::read_write) {
  try {
    Registry::open(file, access);
  } catch (const std::runtime_error& error) {
    const std::string what = error.what();
    CHECK_THAT(what, StartsWith(file.string() + ": "));
    CHECK(what.find('\n') == std::string::npos);
    return what;
  }
  return "it was opened";
}

// The released migrations and one made up, as a later assay would have.
std::vector<Migration> with_another(const char* sql) {
  auto steps = migrations();
  steps.push_back({static_cast<int>(steps.size()) + 1, sql});
  return steps;
}

const int kLast = migrations().back().version;
const std::string kLastText = std::to_string(kLast), kNextText = std::to_string(kLast + 1);

int version_of(const fs::path& file) {
  SQLite::Database database(file.string(), SQLite::OPEN_READONLY, 10'000);
  return database.execAndGet("PRAGMA user_version").getInt();
}

}  // namespace

TEST_CASE("a new registry is marked, strict and in WAL mode, and nothing is left beside it") {
  const auto folder = fresh_folder("schema/new") / "deep" / "er";
  const auto file = folder / "registry.sqlite";
  { auto records = open(file); }
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 1);
  SQLite::Database database(file.string(), SQLite::OPEN_READONLY);
  CHECK(database.execAndGet("PRAGMA application_id").getInt() == 0x61737379);
  CHECK(database.execAndGet("PRAGMA user_version").getInt() == migrations().back().version);
  CHECK(database.execAndGet("PRAGMA journal_mode").getString() == "wal");
  SQLite::Statement tables(database, "SELECT name, strict FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite%'");
  int count = 0;
  for (; tables.executeStep(); ++count) {
    INFO(tables.getColumn(0).getString());
    CHECK(tables.getColumn(1).getInt() == 1);
  }
  CHECK(count == 15);
}

TEST_CASE("what is no registry is refused in one sentence") {
  const auto folder = fresh_folder("schema/refused");
  const auto file = folder / "registry.sqlite";
  write_file_atomically(file, "these are notes, and quite long ones at that: " + std::string(5000, 'x'));
  CHECK_THAT(refusal(file), Contains("not an SQLite file"));
  write_file_atomically(file, "short");
  CHECK_THAT(refusal(file), Contains("not an SQLite file"));
  write_file_atomically(file, "SQLite for");
  CHECK_THAT(refusal(file), Contains("cut short"));
  // Never taken for a new one: an emptied file is a loss to be noticed, not a fresh start.
  write_file_atomically(file, "");
  CHECK_THAT(refusal(file), Contains("is empty"));
  CHECK(read_file(file).empty());
  fs::remove(file);
  { SQLite::Database(file.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec("CREATE TABLE t(x)"); }
  CHECK_THAT(refusal(file), Contains("not an assay registry"));
  fs::remove(file);
  fs::create_directory(file);
  CHECK_THAT(refusal(file), Contains("is not a file"));
  CHECK_THAT(refusal(folder / "none.sqlite", Registry::Access::read_only), Contains("no registry here yet"));
  CHECK_FALSE(fs::exists(folder / "none.sqlite"));
  write_file_atomically(folder / "plain", "x");
  CHECK_THROWS_WITH(open(folder / "plain" / "r.sqlite"), Contains("cannot be made"));
}

TEST_CASE("a truncated or overwritten registry is refused, or its damage is found") {
  const auto folder = fresh_folder("schema/damaged");
  const auto file = folder / "registry.sqlite";
  {
    auto records = with_runs(file, 50);
    records.batch([&] {
      for (int run = 1; run <= 50; ++run)
        for (int step = 0; step < 20; ++step) records.put_metrics(run, {{step, "loss", 0.5 * step}, {step, "x", 1}}, {});
    });
  }
  const std::string whole = read_file(file);
  REQUIRE(whole.size() > 8 * 4096);
  for (const std::size_t size : {std::size_t{50}, std::size_t{512}, std::size_t{4096}, std::size_t{5000}, whole.size() / 2,
                                 whole.size() - 4096, whole.size() - 1}) {
    INFO(size << " of " << whole.size() << " bytes");
    write_file_atomically(file, whole.substr(0, size));
    const std::string what = refusal(file);
    CHECK((what.find("is damaged") != std::string::npos || what.find("not an SQLite file") != std::string::npos));
    CHECK_THAT(refusal(file, Registry::Access::read_only), !Contains("it was opened"));
  }
  // Garbage in the middle cannot be seen on opening without reading everything: problems() reads everything.
  std::string garbled = whole;
  std::fill(garbled.begin() + 2 * 4096, garbled.end() - 4096, '\x5a');
  write_file_atomically(file, garbled);
  try {
    auto records = open(file);
    CHECK_FALSE(records.problems().empty());
    CHECK_THROWS_WITH(records.runs({}), StartsWith(file.string() + ": "));
  } catch (const std::runtime_error& error) {
    CHECK_THAT(error.what(), StartsWith(file.string() + ": "));
  }
}

TEST_CASE("the log of a registry that is gone is not mixed into a new one") {
  const auto file = fresh_folder("schema/orphan-log") / "registry.sqlite";
  write_file_atomically(file.string() + "-wal", "frames");
  CHECK_THAT(refusal(file), Contains("its log"));
  CHECK_FALSE(fs::exists(file));
}

TEST_CASE("a newer registry is refused, an older one only when it may not be written") {
  const auto file = fresh_folder("schema/newer") / "registry.sqlite";
  { auto records = with_runs(file, 1); }
  auto steps = with_another("CREATE TABLE added (x INTEGER) STRICT");
  CHECK_THROWS_WITH(open_checked(file, false, steps), Contains("older schema " + kLastText));
  {
    auto database = open_checked(file, true, steps);
    CHECK(migrate(database, file, steps) == kLast);
  }
  CHECK_THAT(refusal(file), Contains("newer assay (schema " + kNextText + "; this one knows up to " + kLastText + ")"));
  CHECK_THAT(refusal(file, Registry::Access::read_only), Contains("newer assay"));
}

TEST_CASE("a migration keeps the data and a copy of the file as it was") {
  const auto file = fresh_folder("schema/migrate") / "registry.sqlite";
  auto records = with_runs(file, 3);  // left open: its last writes are still in the log only
  const auto steps = with_another("ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT 'none'");
  {
    auto database = open_checked(file, true, steps);
    CHECK(migrate(database, file, steps) == kLast);
    CHECK(migrate(database, file, steps) == kLast + 1);  // nothing left to do
    CHECK(database.execAndGet("SELECT count(*) FROM runs WHERE note = 'none'").getInt() == 3);
  }
  CHECK(version_of(file) == kLast + 1);
  const fs::path copy = file.string() + ".schema-" + kLastText + ".backup";
  REQUIRE(fs::exists(copy));
  auto old = open(copy);
  CHECK(old.runs({}).size() == 3);
  CHECK(old.problems().empty());
}

TEST_CASE("a migration that fails changes nothing") {
  const auto file = fresh_folder("schema/fails") / "registry.sqlite";
  { auto records = with_runs(file, 2); }
  const auto steps = with_another("CREATE TABLE half (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1)");
  {
    auto database = open_checked(file, true, steps);
    CHECK_THROWS(migrate(database, file, steps));
  }
  auto records = open(file);
  CHECK(records.runs({}).size() == 2);
  CHECK(version_of(file) == kLast);
  SQLite::Database database(file.string(), SQLite::OPEN_READONLY);
  CHECK_FALSE(database.tableExists("half"));
}

TEST_CASE("many that open an old registry at once migrate it once") {
  const auto file = fresh_folder("schema/race") / "registry.sqlite";
  { auto records = with_runs(file, 1); }
  const auto steps = with_another("CREATE TABLE added (x INTEGER) STRICT; INSERT INTO added VALUES (1)");
  std::atomic<int> migrated{0}, failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      try {
        auto database = open_checked(file, true, steps);
        if (migrate(database, file, steps) == kLast) ++migrated;
      } catch (const std::exception&) {
        ++failed;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(failed == 0);
  CHECK(migrated == 1);
  SQLite::Database database(file.string(), SQLite::OPEN_READONLY);
  CHECK(database.execAndGet("SELECT count(*) FROM added").getInt() == 1);
}

TEST_CASE("many that make a registry at once make one") {
  const auto folder = fresh_folder("schema/make");
  const auto file = folder / "registry.sqlite";
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&, i] {
      try {
        open(file).put_series({"s" + std::to_string(i), "", "", ""});
      } catch (const std::exception&) {
        ++failed;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(failed == 0);
  CHECK(open(file).all_series().size() == 6);
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 1);
}

TEST_CASE("network file systems are known by their numbers") {
  CHECK(network_file_system(0x6969) == std::optional<std::string>("NFS"));
  CHECK(network_file_system(static_cast<long>(0xFE534D42)) == std::optional<std::string>("SMB2"));
  CHECK(network_file_system(static_cast<int>(0xFF534D42)) == std::optional<std::string>("CIFS"));  // a signed f_type
  for (const long local : {0xEF53L, 0x9123683EL, 0x58465342L, 0x01021994L, 0x794C7630L})  // ext4 btrfs xfs tmpfs overlay
    CHECK_FALSE(network_file_system(local));
}

TEST_CASE("listings do not touch the metrics") {
  const auto file = fresh_folder("schema/listing") / "registry.sqlite";
  { with_runs(file, 2).put_metrics(1, {{1, "a", 1}}, {1, 20, 0.5, {}, 3}); }
  { SQLite::Database(file.string(), SQLite::OPEN_READWRITE).exec("DROP TABLE metric_lines"); }
  auto records = open(file);
  CHECK(records.runs({}).size() == 2);
  CHECK(records.run(1));
  CHECK(records.progress(1).step == 1);
  CHECK(records.latest_batch("e13"));
  CHECK_THROWS(records.metrics(1));
}

// Each file was written by this test (ASSAY_WRITE_GOLDEN=1) with the first build of its schema, and stays as it is: every
// later assay must read it.
TEST_CASE("the registries of all released schemas in the golden folder are still read") {
  const int version = GENERATE(range(1, kLast + 1));
  CAPTURE(version);
  const auto golden = assay::test::source("tests/golden/registry/schema-" + std::to_string(version) + ".sqlite");
  if (std::getenv("ASSAY_WRITE_GOLDEN") && version == kLast && !fs::exists(golden)) {
    auto records = with_runs(golden, 2);
    records.transition(1, StateKind::queued, {StateKind::starting, {}, {}, ""}, 1'800'000'000);
    records.transition(1, StateKind::starting, {StateKind::running, {}, {}, ""}, 1'800'000'001);
    records.transition(1, StateKind::running, {StateKind::failed, 4, {}, "non-finite loss"}, 1'800'000'060);
    auto waiting = assay::test::new_run("h", 2, "b2");
    waiting.after = {1, 2};
    records.add_runs({waiting}, assay::test::folder_name);
    records.put_metrics(1, {{0, "val-core/acc", 0.08}, {1, "loss", std::nan("")}, {1, "grad", HUGE_VAL}},
                        {1, 20, 0.25, 0.08, 1'800'000'050});
    records.put_evaluation(1, {0, 2, 1, 2, 1, "none", "nvfp4/te", "sha",
                               {{0, "correct", true, true, true}, {1, "unparsable", false, true, false}}});
    records.put_event({1, 1'800'000'059, 1, "non_finite", "loss", R"({"step":1})"});
    records.put_event({0, 1'800'000'000, -1, "daemon", "started", "{}"});
    records.put_document(1, "doctor", R"({"findings":[]})");
    records.set_ingested_bytes(1, "metrics.jsonl", 1234);
    Record verdict;
    verdict.run = 1;
    verdict.kind = "verdict";
    verdict.text = "the loss was not finite";
    verdict.time = 1'800'000'100;
    verdict.author = "lab";
    verdict.source = "command";
    records.put_record(verdict, 100);
  }
  const auto file = fresh_folder("schema/fixture") / "registry.sqlite";
  fs::copy_file(golden, file);
  auto records = open(file);
  CHECK(records.problems().empty());
  REQUIRE(records.runs({}).size() == 3);
  const auto run = *records.run(1);
  CHECK(run.series == "e13");
  CHECK(run.run == "g");
  CHECK(run.folder == "/runs/e13/1-g");
  CHECK(run.config_json == R"({"train":{"seed":1}})");
  CHECK(run.state.kind == StateKind::failed);
  CHECK(run.state.exit_code == 4);
  CHECK(run.state.detail == "non-finite loss");
  CHECK(run.started == 1'800'000'000);
  CHECK(run.ended == 1'800'000'060);
  CHECK(records.run(3)->after == std::vector<std::int64_t>{1, 2});
  CHECK(records.attempts(1).size() == 1);
  const auto metrics = records.metrics(1);
  REQUIRE(metrics.size() == 3);
  CHECK(metrics[0].value == 0.08);
  CHECK(metrics[1].key == "grad");
  CHECK(std::isinf(metrics[1].value));
  CHECK(std::isnan(metrics[2].value));
  const auto evaluations = records.evaluations(1, true);
  REQUIRE(evaluations.size() == 1);
  REQUIRE(evaluations[0].outcomes.size() == 2);
  CHECK(evaluations[0].outcomes[1].outcome == "unparsable");
  CHECK(evaluations[0].outcomes[1].format_right);
  CHECK(records.events(1).size() == 1);
  CHECK(records.events(0).size() == 1);
  CHECK(records.document(1, "doctor"));
  CHECK(records.ingested_bytes(1, "metrics.jsonl") == 1234);
  CHECK(records.progress(1).score == 0.25);
  CHECK(records.records_of_run(1).size() == (version < 2 ? 0 : 1));  // schema 2 brought them
  REQUIRE(records.facts(1));
  CHECK(records.facts(1)->environment_json == R"({"cores":2})");
  CHECK(records.add_runs({assay::test::new_run("z", 9)}, assay::test::folder_name)[0] == 4);
}

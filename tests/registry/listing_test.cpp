// Pages of runs, and counts.
#include "registry/listing.h"

#include <set>

#include "tests/registry/fixtures.h"

using namespace assay::registry;
using assay::test::folder_name;
using assay::test::fresh_folder;
using assay::test::new_run;
using assay::test::with_runs;

namespace {

using Numbers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("a list is cut into pages that leave out no run and show none twice, in every order") {
  const auto file = fresh_folder("registry/pages") / "r.sqlite";
  auto registry = with_runs(file, 23);
  const Listing listing(file);
  for (int i = 1; i <= 23; i += 3)
    registry.put_metrics(i, {}, {1, 2, i % 2 == 0 ? std::optional(0.5) : std::nullopt, 0.01 * i, 1});
  using Order = ListQuery::Order;
  for (const Order order : {Order::active, Order::number, Order::run, Order::series, Order::state, Order::score, Order::accuracy,
                            Order::created, Order::started, Order::took})
    for (const bool descending : {true, false}) {
      ListQuery query;
      query.order = order;
      query.descending = descending;
      query.limit = 5;
      std::set<std::int64_t> seen;
      for (query.offset = 0; query.offset < 25; query.offset += 5) {
        const RunList page = listing.list(query);
        CHECK(page.total == 23);
        for (const std::int64_t number : page.numbers) CHECK(seen.insert(number).second);
      }
      CHECK(seen.size() == 23);
    }
}

TEST_CASE("a list puts what runs first, and runs without a value last; words, series and states narrow it") {
  const auto file = fresh_folder("registry/list") / "r.sqlite";
  auto registry = with_runs(file, 4);
  const Listing listing(file);
  registry.put_series({"other", "O", "", "{}"});
  NewRun run = new_run("a_b%c");
  run.series = "other";
  registry.add_runs({run}, folder_name);
  registry.transition(2, StateKind::queued, {StateKind::starting, {}, {}, ""}, 10);
  registry.transition(2, StateKind::starting, {StateKind::running, {}, {}, ""}, 11);
  registry.transition(5, StateKind::queued, {StateKind::skipped, {}, {}, "run 1 failed"}, 12);
  registry.put_metrics(3, {}, {1, 2, 0.5, 0.25, 1});
  CHECK(listing.list({}).numbers == Numbers{2, 4, 3, 1, 5});
  ListQuery query;
  query.order = ListQuery::Order::accuracy;
  query.descending = false;
  CHECK(listing.list(query).numbers == Numbers{3, 5, 4, 2, 1});
  query = {};
  query.text = "_b%";
  CHECK(listing.list(query).numbers == Numbers{5});
  query.text = "_";       // no wildcard
  CHECK(listing.list(query).total == 1);
  query.text = "3";
  CHECK(listing.list(query).numbers == Numbers{2, 4, 3, 1});   // the series e13 holds it too
  query.text = "' OR 1 --";
  CHECK(listing.list(query).total == 0);
  query = {};
  query.series = "other";
  CHECK(listing.list(query).total == 1);
  query = {};
  query.states = {StateKind::queued, StateKind::skipped};
  CHECK(listing.list(query).total == 4);
  const auto counts = listing.count_by_state();
  CHECK(counts.at(StateKind::queued) == 3);
  CHECK(counts.at(StateKind::running) == 1);
  CHECK(listing.count_by_state() == counts);
  registry.transition(4, StateKind::queued, {StateKind::starting, {}, {}, ""}, 13);   // by another connection
  CHECK(listing.count_by_state().at(StateKind::queued) == 2);
  CHECK(listing.count_by_state().at(StateKind::starting) == 1);
  const auto series = listing.count_by_series();
  REQUIRE(series.size() == 2);
  CHECK(series[0].id == "other");
  CHECK(series[1].runs == 4);
  CHECK(series[1].active == 4);
}

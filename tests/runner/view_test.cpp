#include "runner/view.h"

#include <cmath>

#include "catch.h"
#include "runner/selection.h"

using namespace assay;
using namespace assay::runner;

TEST_CASE("tables are aligned by characters, cut at characters") {
  CHECK(text_table({{"a", "bb"}, {"ä…", "c"}}) == "a   bb\nä…  c\n");
  CHECK(text_table({{"n", "x"}, {"10", "y"}}, {0}) == " n  x\n10  y\n");
  CHECK(characters("ä…x") == 3);
  CHECK(cut("äöü", 3) == "äöü");
  CHECK(cut("äöüx", 3) == "äö…");
  CHECK(cut("abc", 1) == "…");
}

TEST_CASE("durations, percentages, time left") {
  CHECK(duration(12.4) == "12 s");
  CHECK(duration(185) == "3 min 05 s");
  CHECK(duration(7440) == "2 h 04 min");
  CHECK(percent(std::nullopt) == "-");
  CHECK(percent(NAN) == "-");
  CHECK(percent(0.613) == "61.3 %");
  registry::RunRow row;
  registry::Progress progress;
  CHECK_FALSE(time_left(row, progress, 100));
  row.started = 100;
  progress.step = 5;
  progress.total_steps = 20;
  progress.last_time = 110;
  CHECK(*time_left(row, progress, 110) == Approx(30));
  CHECK(*time_left(row, progress, 111) == Approx(29));
  progress.step = 20;
  CHECK(*time_left(row, progress, 111) == 0);
}

TEST_CASE("states in words") {
  using registry::State;
  using registry::StateKind;
  CHECK(state_text({StateKind::failed, 3, {}, "config.json: bad"}) == "failed (exit code 3): config.json: bad");
  CHECK(state_text({StateKind::failed, {}, 9, ""}) == "failed (signal 9)");
  CHECK(state_text({StateKind::killed, 5, {}, "root"}) == "killed by root");
  CHECK(state_text({StateKind::succeeded, 0, {}, ""}) == "succeeded");
}

TEST_CASE("words that name runs") {
  CHECK(names_run("e13a", "e13a-nvfp4"));
  CHECK(names_run("e13a-nvfp4", "e13a-nvfp4"));
  CHECK_FALSE(names_run("e13", "e13a-nvfp4"));
  CHECK_FALSE(names_run("", "a"));
  CHECK(as_number("17") == 17);
  CHECK(as_number("#17") == 17);
  CHECK_FALSE(as_number("17a"));
  CHECK_FALSE(as_number("#"));
  CHECK_FALSE(as_number("-1"));
}

// Metrics out of other trainers' consoles: verl's step lines, trl's dicts, the user's own pattern.
#include <cmath>
#include <limits>

#include "catch.h"
#include "runner/console/number.h"
#include "runner/console/parser.h"
#include "runner/console/verl.h"

using namespace assay::console;

namespace {

double value(const StepLine& line, const std::string& key) {
  for (const Point& point : line.points)
    if (point.key == key) return point.value;
  FAIL("no key " << key);
  return 0;
}

StepLine verl(std::string_view text, bool whole = true) {
  const auto line = parse_verl_line(text, whole);
  REQUIRE(line);
  return *line;
}

}  // namespace

TEST_CASE("numbers as Python prints them") {
  CHECK(parse_number("-8.1e-06") == -8.1e-06);
  CHECK(parse_number(" 12 ") == 12.0);
  CHECK(parse_number("+3.5") == 3.5);
  CHECK(parse_number("np.float64(0.6)") == 0.6);
  CHECK(parse_number("np.int64(-7)") == -7.0);
  CHECK(parse_number("tensor(0.5, device='cuda:0')") == 0.5);
  CHECK(parse_number("True") == 1.0);
  CHECK(parse_number("-inf") == -std::numeric_limits<double>::infinity());
  CHECK(std::isnan(parse_number("nan").value()));
  CHECK(std::isnan(parse_number("np.float32(nan)").value()));
  for (const char* bad : {"", " ", "None", "infinity", "nan(1)", "0x10", "1_000", "1e999", "1.2.3", "(0.5)", "f(0.5", "a b(1)",
                          "[1]", "--1", "0.5)", "np.float64()"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_number(bad));
  }
}

TEST_CASE("what a terminal takes as commands is no text") {
  CHECK(without_controls("\x1b[36m(TaskRunner pid=1)\x1b[0m a\tb\x01") == "(TaskRunner pid=1) a b");
  CHECK(without_controls("\x1b]0;title\astep:1") == "step:1");
  CHECK(without_controls("\x1b]0;title\x1b\\step:1") == "step:1");
  CHECK(without_controls("gr\xc3\xbc\xff\xc3") == "gr\xc3\xbc??");
  CHECK(without_controls("\xed\xa0\x80\xf4\x90\x80\x80") == "???????");  // a surrogate; beyond U+10FFFF
  CHECK(without_controls("\x1b[") == "");
  CHECK(without_controls("\x1b") == "");
}

TEST_CASE("a verl step line") {
  const StepLine line = verl(
      "step:12 - critic/score/mean:0.609 - actor/pg_loss:-8.1e-06 - actor/grad_norm:nan - "
      "val-core/openai/gsm8k/acc/mean@1:np.float64(0.6) - training/epoch:0");
  CHECK(line.step == 12);
  CHECK(line.worker.empty());
  REQUIRE(line.points.size() == 5);
  CHECK(value(line, "critic/score/mean") == 0.609);
  CHECK(value(line, "actor/pg_loss") == -8.1e-06);
  CHECK(std::isnan(value(line, "actor/grad_norm")));
  CHECK(value(line, "val-core/openai/gsm8k/acc/mean@1") == 0.6);
  CHECK(line.unreadable.empty());
}

TEST_CASE("verl lines with colours, Ray's prefix, a progress bar and text before them") {
  const StepLine line = verl("\x1b[36m(TaskRunner pid=4711, ip=10.0.0.7)\x1b[0m step:3 - a/b:1.5 - global_step:3\r");
  CHECK(line.worker == "TaskRunner pid=4711, ip=10.0.0.7");
  CHECK(line.step == 3);
  CHECK(value(line, "a/b") == 1.5);
  CHECK(value(line, "global_step") == 3);
  CHECK(verl("Training Progress:  10%|#   | 3/29 [01:02<08:00]\rstep:4 - a:1").step == 4);
  CHECK(verl("2025-11-03 12:33:11,123 INFO step:5 - a:1").step == 5);
  CHECK(verl("(TaskRunner pid=1) Training: 3%| (TaskRunner pid=1) step:6 - a:1").worker == "TaskRunner pid=1");
  CHECK(verl("step:7 - t:tensor(0.5, device='cuda:0') - u:2").points.size() == 2);
}

TEST_CASE("what is no step line") {
  for (const char* text : {"", "step:", "step:x - a:1", "saved checkpoint at step:3", "global_step:3 - a:1", "mystep:3 - a:1",
                           "step:3", "step:3 - ", "step:3 - nothing here", "step:3, a:1", "step:-1 - a:1",
                           "step:99999999999999999999 - a:1", "step:1000000000001 - a:1"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_verl_line(text));
  }
}

TEST_CASE("another process's text that cuts into a verl line takes no wrong value with it") {
  const StepLine line = verl("(TaskRunner pid=1) step:3 - a:1 - b:2.(WorkerDict pid=2) loaded - c:7");
  CHECK(line.worker == "TaskRunner pid=1");
  CHECK(value(line, "a") == 1);
  CHECK(line.points.size() == 1);
  CHECK(line.unreadable == std::vector<std::string>{"b"});
}

TEST_CASE("a tail that was cut off is not believed") {
  const StepLine line = verl("step:3 - a:1 - b:0.12", false);
  CHECK(line.points == std::vector<Point>{{"a", 1}});
  CHECK(line.unreadable == std::vector<std::string>{"b"});
  CHECK_FALSE(parse_verl_line("step:3 - a", false));
  CHECK_FALSE(parse_verl_line("step:3", false));
}

TEST_CASE("values that are no numbers are counted, not guessed") {
  const StepLine line = verl("step:1 - a:None - b:some text - c:1 - d:");
  CHECK(line.points == std::vector<Point>{{"c", 1}});
  CHECK(line.unreadable == std::vector<std::string>{"a", "b", "d"});
}

TEST_CASE("several runs in one verl log, and two workers whose lines alternate") {
  VerlLog log;
  log.text(
      "hello\n"
      "step:0 - val-core/x/acc/mean@1:0.1\n"
      "step:1 - a:1\nstep:2 - a:2\nstep:2 - a:2\n"          // a line that comes twice
      "step:2 - val-core/x/acc/mean@1:0.2\n"                // the same step's further keys
      "step:0 - val-core/x/acc/mean@1:0.3\nstep:1 - a:3\n"  // the next run
      "(TaskRunner pid=1) step:5 - a:5\n(TaskRunner pid=2) step:1 - a:6\n(TaskRunner pid=1) step:6 - a:7\n"
      "(TaskRunner pid=2) step:2 - a:8\n"
      "step:1 - a:4\n"                                      // the same step again, other values
      "step:2 - a:0.5 - b:0.");
  const auto& runs = log.runs();
  REQUIRE(runs.size() == 5);
  CHECK(log.lines() == 14);
  CHECK(runs[0].first_line == 2);
  CHECK(runs[0].last_line == 6);
  CHECK(runs[0].steps.size() == 3);
  CHECK(runs[0].steps.at(2) == std::map<std::string, double>{{"a", 2}, {"val-core/x/acc/mean@1", 0.2}});
  CHECK(runs[1].steps.at(1).at("a") == 3);
  CHECK(runs[2].worker == "TaskRunner pid=1");
  CHECK(runs[2].steps.at(6).at("a") == 7);
  CHECK(runs[3].worker == "TaskRunner pid=2");
  CHECK(runs[3].steps.size() == 2);
  CHECK(runs[4].steps.at(2) == std::map<std::string, double>{{"a", 0.5}});
  CHECK(runs[4].cut_off);
  CHECK(runs[4].unreadable == 1);
  CHECK_FALSE(runs[0].cut_off);
}

TEST_CASE("trl's dicts") {
  CHECK(parse_trl_dict("{'loss': 0.1, 'grad_norm': 1.2e-3, 'learning_rate': 1e-05, 'epoch': 0.01}") ==
        std::vector<Point>{{"loss", 0.1}, {"grad_norm", 1.2e-3}, {"learning_rate", 1e-05}, {"epoch", 0.01}});
  // Newer transformers print the numbers as text; a progress bar before the dict.
  CHECK(parse_trl_dict("  3%|3 | 5/150 [00:10<05:00]{'loss': '0.25', 'rewards/f/mean': np.float64(0.5)}") ==
        std::vector<Point>{{"loss", 0.25}, {"rewards/f/mean", 0.5}});
  CHECK(parse_trl_dict("{'loss': None, 'text': \"it's, {so}\", 'list': [1, 2], 'a': tensor(1., device='cuda:0'), 'b': 2}") ==
        std::vector<Point>{{"a", 1}, {"b", 2}});
  CHECK(parse_trl_dict("set {1, 2} then {'loss': 3.0}") == std::vector<Point>{{"loss", 3}});
  for (const char* bad : {"", "{", "{}", "{'loss'", "{'loss': 0.1", "{'loss': 0.1, ", "{loss: 0.1}", "{\"a\": {\"b\": 1}}", "{'a': )}"}) {
    CAPTURE(bad);
    CHECK(parse_trl_dict(bad).empty());
  }
}

TEST_CASE("the step of a trl line: said, or counted by the lines with a loss") {
  const auto parser = make_parser("trl", "");
  CHECK(parser->line("{'loss': 1.0}", true)->step == 1);
  CHECK(parser->line("{'loss': 0.9}", true)->step == 2);
  CHECK(parser->line("{'eval_loss': 0.8}", true)->step == 2);
  CHECK(parser->line("{'loss': 0.7, 'step': 30}", true)->step == 30);
  CHECK(parser->line("{'train_runtime': 12.5, 'train_loss': 0.8}", true)->step == 30);
  CHECK_FALSE(parser->line("{'loss': 0.", false));
  CHECK_FALSE(parser->line("no dict", true));
}

TEST_CASE("the user's own pattern") {
  const auto pairs = make_parser("regex", R"(iter (?<step>\d+)|(?<key>[a-z]+)=(?<value>\S+))");
  // The step of a line counts for all pairs of it.
  const auto found = pairs->line("\x1b[1miter 7\x1b[0m loss=0.5 acc=nan note=text", true);
  REQUIRE(found);
  CHECK(found->step == 7);
  CHECK(found->points.size() == 2);
  CHECK(found->unreadable == std::vector<std::string>{"note"});
  const auto groups = make_parser("regex", R"(^it=(?<step>\d+) loss (?<train__loss>\S+)(?: acc (?<acc>\S+))?)");
  CHECK(groups->line("it=3 loss 0.25", true)->points == std::vector<Point>{{"train/loss", 0.25}});
  CHECK(groups->line("it=4 loss 0.25 acc 1", true)->points.size() == 2);
  CHECK_FALSE(groups->line("nothing", true));
  CHECK_FALSE(groups->line("it=5 loss 0.2", false));   // it may go on
  const auto counted = make_parser("regex", R"(loss (?<loss>\S+))");
  CHECK(counted->line("loss 1", true)->step == 1);
  CHECK(counted->line("loss 0.5", true)->step == 2);
}

TEST_CASE("a pattern that cannot be used is told why, one that backtracks without end gives up") {
  CHECK(regex_fault(R"((?<step>\d+) (?<loss>\S+))") == "");
  CHECK_THAT(regex_fault("(?<loss>["), Catch::Contains("does not compile"));
  CHECK_THAT(regex_fault("loss"), Catch::Contains("no named group"));
  CHECK_THAT(regex_fault(R"((?<step>\d+))"), Catch::Contains("no named group"));
  CHECK_THAT(regex_fault(R"((?<key>\w+))"), Catch::Contains("key and not value"));
  const auto slow = make_parser("regex", R"(^(?<a>(a+)+)$)");
  CHECK_FALSE(slow->line(std::string(60, 'a') + "b", true));
}

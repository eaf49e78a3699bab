#include "trainer/grpo/data.h"

#include <algorithm>
#include <fstream>
#include <numeric>

#include "tests/catch.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/seeds.h"

using namespace assay::train;

namespace {

std::filesystem::path file_with(const std::string& name, const std::string& text) {
  const auto path = assay::test::fresh_folder("grpo-data-" + name) / "data.jsonl";
  std::ofstream(path) << text;
  return path;
}

std::string refusal(const std::string& name, const std::string& text) {
  try {
    read_problems(file_with(name, text));
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("problems are read in order, blank lines skipped, limit obeyed") {
  const auto path = file_with("good", R"({"question": "q1", "answer": "a\n#### 1,000", "id": 3}

{"question": "q2", "answer": "#### -2"}
{"question": "q3", "answer": "#### 3"}
)");
  const auto all = read_problems(path);
  REQUIRE(all.size() == 3);
  CHECK(all[0].gold == "1000");
  CHECK(all[1].question == "q2");
  CHECK(all[1].line == 3);
  CHECK(read_problems(path, 2).size() == 2);
}

TEST_CASE("a bad line is named with its file and line, and what to do") {
  const std::string good = R"({"question": "q", "answer": "#### 1"})" "\n";
  CHECK_THAT(refusal("no-mark", good + R"({"question": "q", "answer": "72"})"), Catch::Contains("data.jsonl:2: ") && Catch::Contains("####"));
  CHECK_THAT(refusal("no-number", good + R"({"question": "q", "answer": "#### many"})"), Catch::Contains("data.jsonl:2: "));
  CHECK_THAT(refusal("dots", good + R"({"question": "q", "answer": "#### ..."})"), Catch::Contains("data.jsonl:2: "));
  CHECK_THAT(refusal("no-question", R"({"answer": "#### 1"})"), Catch::Contains("data.jsonl:1: ") && Catch::Contains("question"));
  CHECK_THAT(refusal("not-json", good + "hello\n"), Catch::Contains("data.jsonl:2: "));
  CHECK_THAT(refusal("empty", "\n"), Catch::Contains("no problems"));
  CHECK_THROWS_AS(read_problems("/nonexistent/data.jsonl"), BadInput);
}

TEST_CASE("every epoch is a permutation of its own, whatever the batch size") {
  DataOrder order(10, 7);
  std::vector<std::size_t> seen;
  for (int i = 0; i < 10; ++i) {
    const auto batch = order.next(3);
    seen.insert(seen.end(), batch.begin(), batch.end());
  }
  std::vector<std::size_t> whole(10);
  std::iota(whole.begin(), whole.end(), std::size_t{0});
  std::vector<std::vector<std::size_t>> epochs;
  for (int e = 0; e < 3; ++e) {
    std::vector<std::size_t> epoch(seen.begin() + 10 * e, seen.begin() + 10 * (e + 1));
    epochs.push_back(epoch);
    std::sort(epoch.begin(), epoch.end());
    CHECK(epoch == whole);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  CHECK(DataOrder(10, 7).next(30) == seen);
  CHECK(DataOrder(10, 8).next(30) != seen);
  CHECK(DataOrder(2, 1).next(7).size() == 7);
}

TEST_CASE("seeds differ by step and by purpose") {
  CHECK(derive_seed(1, 2, Purpose::rollout) == derive_seed(1, 2, Purpose::rollout));
  CHECK(derive_seed(1, 2, Purpose::rollout) != derive_seed(1, 3, Purpose::rollout));
  CHECK(derive_seed(1, 2, Purpose::rollout) != derive_seed(2, 2, Purpose::rollout));
  CHECK(derive_seed(1, 2, Purpose::rollout) != derive_seed(1, 2, Purpose::data));
  // The published function: SplitMix64's first output for seed 0.
  CHECK(mix_seed(0) == 0xe220a8397b1dcdafULL);
}

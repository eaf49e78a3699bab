#include "trainer/tasks/config.h"

#include "support/files.h"
#include "tests/catch.h"

using namespace assay::train::tasks;

namespace {

std::string shipped_text() {
  return assay::support::read_file(assay::test::source("experiments/e13/pretrain.toml"));
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string error_of(const std::string& text) {
  const auto file = assay::test::fresh_folder("task-config") / "pretrain.toml";
  assay::support::write_file_atomically(file, text);
  try {
    TaskConfig::read(file);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("the shipped config is read as it stands") {
  const TaskConfig config = TaskConfig::read(assay::test::source("experiments/e13/pretrain.toml"));
  CHECK(config.mixture.topics.size() == 12);
  CHECK(config.mixture.topics.front() == "apples");
  CHECK(config.mixture.wanted.back() == 0.0025);
  CHECK(config.model.hidden == 96);
  CHECK(config.model.out.filename() == "model");
  CHECK(config.model.out.parent_path() == config.file.parent_path());
  CHECK(config.training.lr == 3e-3);
  CHECK(error_of(shipped_text()).empty());
}

TEST_CASE("a wrong config is refused with every error, by line") {
  CHECK_THAT(error_of("[problems\n"), Catch::Contains("pretrain.toml:1:"));
  std::string text = replaced(shipped_text(), "warmup = 50", "warm_up = 50");
  text = replaced(text, "plain = 0.60", "plain = \"much\"");
  text = replaced(text, "heads = 4", "heads = 5");
  text = replaced(text, "name = \"rings\"", "name = \"toys\"");
  text = replaced(text, "test = 1024", "test = 0");
  const std::string errors = error_of(text);
  INFO(errors);
  CHECK_THAT(errors, Catch::Contains("training.warmup is missing"));
  CHECK_THAT(errors, Catch::Contains("unknown key 'training.warm_up'; did you mean 'warmup'?"));
  CHECK_THAT(errors, Catch::Contains("documents.plain is not a number; expected a number from 0 to 1"));
  CHECK_THAT(errors, Catch::Contains("model.heads does not divide model.hidden"));
  CHECK_THAT(errors, Catch::Contains("topic 'toys' is there twice"));
  CHECK_THAT(errors, Catch::Contains("problems.test is 0; expected an integer from 1"));
  CHECK_THAT(error_of(replaced(shipped_text(), "[tokenizer]", "[tokeniser]")),
             Catch::Contains("tokenizer is missing") && Catch::Contains("did you mean 'tokenizer'"));
  CHECK_THAT(error_of(replaced(shipped_text(), "plain = 0.60", "plain = 0.90")), Catch::Contains("above 1"));
  CHECK_THAT(error_of(replaced(shipped_text(), "lr = 3e-3", "lr = nan")), Catch::Contains("training.lr"));
}

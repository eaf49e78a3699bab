#include <algorithm>
#include <cstdlib>

#include "reading.h"

using namespace assay;
using namespace assay::test;
namespace fs = std::filesystem;

namespace {

class Environment {  // one variable, for one scope
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    if (before_) setenv(name_, before_->c_str(), 1);
    else unsetenv(name_);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

std::string found(const std::string& name) {
  const auto result = spec::resolve_series(name);
  if (const auto* missing = std::get_if<spec::Diagnostic>(&result)) return missing->text();
  return std::get<fs::path>(result).string();
}

}  // namespace

TEST_CASE("a series is found by path, by folder, and by id in each place, the nearest first") {
  const fs::path folder = fresh_folder("places");
  const InFolder here(folder);
  const Environment places("ASSAY_EXPERIMENTS", (folder / "lib").string() + "::" + (folder / "absent").string() + ":more");
  write("experiments/near/near.toml", "");
  write("experiments/flat.toml", "");
  write("lib/near/near.toml", "");
  write("lib/far/far.toml", "");
  write("more/farthest.toml", "");
  write("experiments/near/model/config.toml", "");
  CHECK(found("near") == "experiments/near/near.toml");
  CHECK(found("flat") == "experiments/flat.toml");
  CHECK(found("far") == (folder / "lib/far/far.toml").string());
  CHECK(found("farthest") == "more/farthest.toml");
  CHECK(found("experiments/near") == "experiments/near/near.toml");
  CHECK(found("experiments/near/") == "experiments/near/near.toml");
  CHECK(found("experiments/flat.toml") == "experiments/flat.toml");
  CHECK(found("e13") == source("experiments/e13/e13.toml").string());  // the folder this build came from

  const auto ids = spec::list_series();
  CHECK(std::is_sorted(ids.begin(), ids.end()));
  for (const char* id : {"near", "flat", "far", "farthest", "e13", "e13-gsm8k", "smollm2-words", "smollm2-gsm8k"}) {
    INFO(id);
    CHECK(std::count(ids.begin(), ids.end(), id) == 1);
  }
  CHECK(std::count(ids.begin(), ids.end(), "config") == 0);
}

TEST_CASE("a series that is not there: which there are, and the nearest") {
  CHECK_THAT(found("e31"), has("e31: no such series; there are e13, e13-gsm8k") && has("; did you mean 'e13'?"));
  CHECK_THAT(found(""), has("no such series; there are e13"));
  CHECK(found("nowhere/e13.toml") == "nowhere/e13.toml: no such file");
  CHECK_THAT(found("nowhere/e13"), has("no such series; wanted a .toml file"));
  CHECK_THAT(found(".."), has("no such series"));
}

TEST_CASE("missing_to_run says in one sentence what is missing and how to get it") {
  const fs::path folder = fresh_folder("missing");
  const auto missing = [&](const std::string& more) {
    const spec::Series s = good(write(folder / "s.toml", minimal + more + "[[run]]\nid = \"a\"\n"));
    return spec::missing_to_run(s.runs[0].config, s.runs[0].derived);
  };
  CHECK(missing("") == "the model folder " + (folder / "model").string() +
                           " is not there: put the model there, or set model.path; the data files " +
                           (folder / "train.jsonl").string() + " and " + (folder / "test.jsonl").string() +
                           " are not there: put the data there, or set data.train and data.test");
  fs::create_directories(folder / "model");
  write(folder / "train.jsonl", "");
  CHECK(missing("") == (folder / "model").string() + " is no Hugging Face model folder: it has no config.json; the data file " +
                           (folder / "test.jsonl").string() +
                           " is not there: put the data there, or set data.train and data.test");
  write(folder / "test.jsonl", "");
  write(folder / "model/config.json", "{}");
  CHECK(missing("") == (folder / "model/config.json").string() + " has no sensible num_hidden_layers");
  write(folder / "model/config.json", "{\"num_hidden_layers\": 2}");
  CHECK(missing("") == "");
  CHECK(missing("train.device = \"cuda\"\n") == "");  // whether there is a GPU is seen where the run is carried out
  CHECK_THAT(missing("trainer = { kind = \"command\", argv = [\"no-such-program-of-that-name\"] }\n"),
             has("the program no-such-program-of-that-name is not there or not executable"));
}

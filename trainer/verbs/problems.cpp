#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "support/files.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/tasks/documents.h"
#include "trainer/verbs/task_config.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

struct Options {
  std::filesystem::path config, out;
  std::int64_t documents = 0, train = 0, test = 0;
  int operations = 0;
};

void write_problems(const Options& options) {
  const tasks::TaskConfig config = read_task_config(options.config);
  const tasks::ProblemSets sets = tasks::draw_problem_sets(
      config.mixture.topics, config.problems.seed, options.train ? options.train : config.problems.train,
      options.test ? options.test : config.problems.test, options.operations);
  std::filesystem::create_directories(options.out);
  support::write_file_atomically(options.out / "train.jsonl", tasks::problems_jsonl(sets.train));
  support::write_file_atomically(options.out / "test.jsonl", tasks::problems_jsonl(sets.test));
  std::printf("%zu training and %zu test problems in %s\n", sets.train.size(), sets.test.size(), options.out.c_str());
  if (options.documents == 0) return;

  std::unordered_set<std::string> excluded;
  for (const tasks::Problem& problem : sets.test) excluded.insert(problem.question);
  std::string lines;
  for (std::int64_t i = 0; i < options.documents; ++i) {
    const tasks::Document document =
        tasks::draw_document(config.mixture, config.documents_seed, static_cast<std::uint64_t>(i), excluded);
    lines += nlohmann::ordered_json{{"prompt", document.problem.question + "\n"}, {"completion", document.completion}}
                 .dump() + "\n";
  }
  support::write_file_atomically(options.out / "documents.jsonl", lines);
  std::printf("%lld pretraining documents\n", static_cast<long long>(options.documents));
}

}  // namespace

void add_problems(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("problems", "write the word problems that CONFIG defines: train.jsonl and test.jsonl");
  auto options = std::make_shared<Options>();
  verb->add_option("CONFIG", options->config, "a task file, e.g. experiments/e13/pretrain.toml")->required();
  verb->add_option("--out", options->out, "the folder to write to, made if need be")->required();
  verb->add_option("--operations", options->operations, "only problems with this many operations")
      ->check(CLI::Range(1, 2));
  verb->add_option("--train", options->train, "how many training problems, instead of CONFIG's number")
      ->check(CLI::PositiveNumber);
  verb->add_option("--test", options->test, "how many test problems, instead of CONFIG's number")
      ->check(CLI::PositiveNumber);
  verb->add_option("--documents", options->documents, "also write the first N pretraining documents: documents.jsonl")
      ->check(CLI::NonNegativeNumber);
  verb->callback([options, &exit_code] {
    write_problems(*options);
    exit_code = exit_finished;
  });
}

}  // namespace assay::train

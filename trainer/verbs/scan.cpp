#include "trainer/grpo/scan.h"

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "experiments/spec/canonical.h"
#include "trainer/grpo/data.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/text/tokenizer.h"
#include "trainer/verbs/open_model.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

struct Options {
  std::filesystem::path model, data;
  spec::QuantConfig quant;
  std::int64_t limit = 16, threads = 1;
  bool json = false;
};

// 16 rows of 64 tokens that depend on nothing but the vocabulary.
std::vector<std::vector<std::int32_t>> random_tokens(std::int64_t vocabulary, std::int64_t positions) {
  std::mt19937_64 random(1);
  std::vector<std::vector<std::int32_t>> rows(16);
  for (auto& row : rows)
    for (std::int64_t t = 0; t < std::min<std::int64_t>(64, positions); ++t)
      row.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary)));
  return rows;
}

void run_scan(Options options) {
  Decoder decoder = open_model(options.model, {}, static_cast<int>(options.threads), "fp32");
  std::vector<std::vector<std::int32_t>> prompts;
  std::string read;
  try {
    if (options.quant.mode.empty()) options.quant.mode = spec::default_mode(options.quant.format);
    decoder.attach_quantizers(options.quant);
    if (options.data.empty()) {
      prompts = random_tokens(decoder.shape().vocabulary, decoder.shape().max_positions);
      read = "16 rows of 64 random tokens; --data reads text";
    } else {
      const Tokenizer tokenizer = Tokenizer::load(options.model);
      for (const Problem& problem : read_problems(options.data, options.limit)) prompts.push_back(tokenizer.encode(problem.question));
      read = "the questions of " + std::to_string(prompts.size()) + " problems of " + options.data.string();
    }
    const auto layers = scan(decoder, prompts);
    if (options.json) {
      auto result = scan_json(layers);
      result["model"] = options.model.string();
      result["quant"] = spec::quant_label(options.quant);
      result["read"] = read;
      std::cout << result.dump() << std::endl;
    } else {
      std::cout << options.model.string() << " under " << spec::quant_label(options.quant) << ", " << read << "\n" << scan_text(layers);
    }
  } catch (const BadInput&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw BadInput(error.what());
  }
}

}  // namespace

void add_scan(CLI::App& app, int&) {
  auto* verb = app.add_subcommand("scan", "the SRDD scan: SQNR, relative error, dead zone and saturation of quantized activations, layer by layer");
  auto options = std::make_shared<Options>();
  verb->add_option("--model", options->model, "a Hugging Face folder")->required();
  verb->add_option("--format", options->quant.format, "nvfp4 or mxfp4")->required()->check(CLI::IsMember({"nvfp4", "mxfp4"}));
  verb->add_option("--mode", options->quant.mode, "arithmetic of the format; the first of its format otherwise");
  verb->add_option("--tensor-scale", options->quant.tensor_scale, "of activations: tensor or row")
      ->check(CLI::IsMember({"tensor", "row"}))
      ->capture_default_str();
  verb->add_option("--data", options->data, "JSON lines with \"question\" and \"answer\": what the model reads; otherwise random tokens");
  verb->add_option("--limit", options->limit, "with --data: the first N problems; 0: all")->check(CLI::NonNegativeNumber)->capture_default_str();
  verb->add_option("--threads", options->threads, "worker threads")->check(CLI::Range(1, 1024))->capture_default_str();
  verb->add_flag("--json", options->json, "one JSON object instead of a table");
  verb->callback([options] { run_scan(*options); });
}

}  // namespace assay::train

#include "trainer/grpo/merge.h"

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "experiments/spec/canonical.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/session.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;

struct Options {
  fs::path run, out, base;
  std::string dtype = "fp32";
  bool peft = false, json = false;
};

void run_merge(const Options& options) {
  const Inputs inputs = read_inputs(options.run);
  MergeOptions merge;
  merge.adapter = inputs.folder / "adapter";
  merge.base = options.base.empty() ? fs::path(inputs.derived.model_path) : options.base;
  merge.out = options.out;
  merge.dtype = options.dtype;
  if (!fs::exists(merge.adapter / "adapter_config.json"))
    throw BadInput(options.run.string() + ": there is no adapter in it, which a run leaves behind when it finishes; give the "
                                          "folder of one that has finished");
  if (!fs::is_directory(merge.base))
    throw BadInput(merge.base.string() + ": there is no such model folder, and the run was trained on it; give its new place with --base");
  const MergeReport report = options.peft ? write_peft(merge) : write_merged(merge);
  const std::string quant = spec::quant_label(inputs.config.quant);
  if (options.json) {
    std::cout << nlohmann::json{{"out", options.out.string()}, {"form", options.peft ? "peft" : "merged"},
                                {"tensors", report.tensors},   {"merged", report.merged},
                                {"bytes", report.bytes},       {"dtype", options.peft ? "fp32" : options.dtype},
                                {"trained_quant", quant}}
                     .dump()
              << std::endl;
    return;
  }
  if (options.peft)
    std::cout << options.out.string() << ": adapter of " << report.tensors << " tensors, for peft.PeftModel.from_pretrained\n";
  else
    std::cout << options.out.string() << ": " << report.tensors << " tensors in " << options.dtype << ", the adapter added to "
              << report.merged << " of them\n";
  if (inputs.config.quant.format != "none")
    std::cout << "trained under " << quant << "; what is written is not quantized (assay-train quantize does that)\n";
  std::cout << std::flush;
}

}  // namespace

void add_merge(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "merge", "a finished run's model for other programs: the adapter added to the base as a Hugging Face folder, or with --peft the adapter");
  auto options = std::make_shared<Options>();
  verb->add_option("RUN_DIR", options->run, "a run folder that has finished")->required();
  verb->add_option("OUT", options->out, "the folder to make; it must not exist")->required();
  verb->add_flag("--peft", options->peft, "write the adapter alone, as a folder that peft loads");
  verb->add_option("--dtype", options->dtype, "of the merged weights")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->capture_default_str();
  verb->add_option("--base", options->base, "the base model's folder, where it has moved since the run");
  verb->add_flag("--json", options->json, "one JSON object instead of text");
  verb->callback([options, &exit_code] {
    run_merge(*options);
    exit_code = exit_finished;
  });
}

}  // namespace assay::train

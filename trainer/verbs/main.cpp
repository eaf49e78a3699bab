// assay-train: one run of training, and the verbs that look at a model from outside.
#include <cstdio>
#include <exception>
#include <string>

#include "trainer/grpo/exit_code.h"
#include "trainer/grpo/memory.h"
#include "trainer/grpo/stop.h"
#include "trainer/verbs/verbs.h"

using namespace assay::train;

namespace {

constexpr void (*verbs[])(CLI::App&, int&) = {
    add_run,      add_doctor,   add_eval,     add_generate, add_logprobs, add_merge,
    add_pretrain, add_problems, add_quantize, add_scan,     add_score,    add_tokenize,
};

// LibTorch's messages go on with a stack trace: the first line says what happened.
int refuse(const std::string& message, int code) {
  std::fprintf(stderr, "assay-train: %s\n", message.substr(0, message.find('\n')).c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("assay-train: GRPO with LoRA under FP4 quantization, one run per run folder");
  app.require_subcommand(1);
  app.footer("Exit codes: 0 finished, 1 infrastructure fault, 2 bad command line, 3 config or input refused,\n"
             "4 non-finite loss or weight, 5 ended by SIGTERM or SIGINT, 6 doctor found an error.");
  int exit_code = exit_finished;
  for (const auto add : verbs) add(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_finished : exit_usage;
  } catch (const Stopped&) {
    return exit_terminated;
  } catch (const BadInput& error) {
    return refuse(error.what(), exit_refused);
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) return refuse("out of memory; train.memory = \"lean\" keeps one form of each weight", exit_fault);
    return refuse(error.what(), exit_fault);
  }
  return exit_code;
}

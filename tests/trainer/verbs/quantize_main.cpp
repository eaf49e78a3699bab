// The quantize verb as a program of its own, which needs no LibTorch: what quantize_test.cpp runs.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "trainer/grpo/exit_code.h"
#include "trainer/verbs/verbs.h"

int main(int argc, char** argv) {
  using namespace assay::train;
  CLI::App app("the quantize verb of assay-train");
  app.require_subcommand(1);
  int exit_code = exit_finished;
  add_quantize(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_finished : exit_usage;
  } catch (const BadInput& error) {
    std::fprintf(stderr, "assay-train: %s\n", error.what());
    return exit_refused;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "assay-train: %s\n", error.what());
    return exit_fault;
  }
  return exit_code;
}

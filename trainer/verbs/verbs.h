// The verbs of assay-train: each adds its subcommand, whose callback does the work and sets the exit code.
// A callback may throw: BadInput ends in one sentence and exit code 3, anything else in one sentence and exit code 1.
#pragma once

#include <CLI/CLI.hpp>

namespace assay::train {

void add_run(CLI::App& app, int& exit_code);       // run.cpp
void add_doctor(CLI::App& app, int& exit_code);    // doctor.cpp
void add_eval(CLI::App& app, int& exit_code);      // eval.cpp
void add_generate(CLI::App& app, int& exit_code);  // generate.cpp
void add_logprobs(CLI::App& app, int& exit_code);  // logprobs.cpp
void add_merge(CLI::App& app, int& exit_code);     // merge.cpp
void add_pretrain(CLI::App& app, int& exit_code);  // pretrain.cpp
void add_problems(CLI::App& app, int& exit_code);  // problems.cpp
void add_quantize(CLI::App& app, int& exit_code);  // quantize.cpp
void add_scan(CLI::App& app, int& exit_code);      // scan.cpp
void add_score(CLI::App& app, int& exit_code);     // score.cpp
void add_tokenize(CLI::App& app, int& exit_code);  // tokenize.cpp

}  // namespace assay::train

// The verb table: one file a verb, one line each here.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "runner/view.h"

namespace assay::runner {

// Declares the verb's options on its subcommand and returns what it does, which returns the exit code.
using Setup = std::function<int()> (*)(CLI::App& app);

struct Verb {
  const char* name;
  const char* summary;
  Setup setup;
  bool hidden = false;
  bool of_all = false;   // it looks at the options of all the others
};

const std::vector<Verb>& verbs();

std::function<int()> setup_report(CLI::App& app);
std::function<int()> setup_run(CLI::App& app);
std::function<int()> setup_add(CLI::App& app);
std::function<int()> setup_status(CLI::App& app);
std::function<int()> setup_follow(CLI::App& app);
std::function<int()> setup_logs(CLI::App& app);
std::function<int()> setup_wait(CLI::App& app);
std::function<int()> setup_kill(CLI::App& app);
std::function<int()> setup_pause(CLI::App& app);
std::function<int()> setup_resume(CLI::App& app);
std::function<int()> setup_restart(CLI::App& app);
std::function<int()> setup_edit(CLI::App& app);
std::function<int()> setup_group(CLI::App& app);
std::function<int()> setup_clean(CLI::App& app);
std::function<int()> setup_compare(CLI::App& app);
std::function<int()> setup_doctor(CLI::App& app);
std::function<int()> setup_import_mlflow(CLI::App& app);   // `import mlflow`
std::function<int()> setup_import_verl(CLI::App& app);   // `import verl`
std::function<int()> setup_diff(CLI::App& app);
std::function<int()> setup_verify(CLI::App& app);
std::function<int()> setup_bundle(CLI::App& app);
std::function<int()> setup_fsck(CLI::App& app);
std::function<int()> setup_rebuild(CLI::App& app);
std::function<int()> setup_backup(CLI::App& app);
std::function<int()> setup_note(CLI::App& app);
std::function<int()> setup_tag(CLI::App& app);
std::function<int()> setup_verdict(CLI::App& app);
std::function<int()> setup_cause(CLI::App& app);
std::function<int()> setup_import(CLI::App& app);
std::function<int()> setup_export(CLI::App& app);
std::function<int()> setup_serve(CLI::App& app);
std::function<int()> setup_daemon(CLI::App& app);
std::function<int()> setup_completions(CLI::App& app);
std::function<int()> setup_man(CLI::App& app);
std::function<int()> setup_supervise(CLI::App& app);
std::function<int()> setup_serve_adds(CLI::App& app);
std::function<int()> setup_slurm_task(CLI::App& app);

// Who runs this command, for records of who did what.
std::string user_name();

// Options that several verbs share, declared the same way in each.
void add_json_flag(CLI::App& app, bool& json);
void add_color_option(CLI::App& app, Color& color);
void add_what_options(CLI::App& app, struct SubmitOptions& options);   // of run and add

}  // namespace assay::runner

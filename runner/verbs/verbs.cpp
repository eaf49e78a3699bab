#include "runner/verbs/verbs.h"

#include <pwd.h>
#include <unistd.h>

#include "runner/submit.h"

namespace assay::runner {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> table = {
      {"run", "queue runs, follow them, and print the comparison table at the end", setup_run},
      {"add", "queue runs and return at once", setup_add},
      {"status", "what runs, what waits and for what, what has ended", setup_status},
      {"follow", "watch runs until they have ended", setup_follow},
      {"logs", "the output of a run's trainer", setup_logs},
      {"wait", "return when runs have ended, saying nothing meanwhile", setup_wait},
      {"pause", "hold waiting runs back, stop running ones where they are", setup_pause},
      {"resume", "let paused runs go on", setup_resume},
      {"restart", "start ended runs again, from their last checkpoint where there is one", setup_restart},
      {"edit", "priority, group, dependencies or configuration of a run that has not started", setup_edit},
      {"group", "limit how many runs of a group go at once", setup_group},
      {"clean", "take ended runs out of the short listing, or delete their checkpoints", setup_clean},
      {"kill", "end runs, or take them out of the queue", setup_kill},
      {"compare", "the comparison table of a series or of some runs", setup_compare},
      {"report", "the whole experiment log of a series, with pictures, regenerated from the registry", setup_report},
      {"doctor", "preflight: what is quantized, which parameters get a gradient, what will not work and why", setup_doctor},
      {"note", "note something about a run or a series, or list what is recorded", setup_note},
      {"tag", "tag runs, or list tags", setup_tag},
      {"verdict", "record a verdict and a conclusion", setup_verdict},
      {"cause", "record a cause that was ruled out or found, with the pair of runs that tells", setup_cause},
      {"diff", "what differs between two runs: config, code, environment, data, metrics, records", setup_diff},
      {"verify", "run it again from what was frozen, and compare bit by bit", setup_verify},
      {"bundle", "runs as one archive, and back again on another machine", setup_bundle},
      {"fsck", "check the registry, by itself and against the run folders", setup_fsck},
      {"rebuild", "make the registry anew from the run folders", setup_rebuild},
      {"backup", "copy the registry while it is in use", setup_backup},
      {"export", "runs for other programs: TensorBoard, MLflow, CSV, JSON", setup_export},
      {"serve", "the web page: queue, live curves, tables", setup_serve},
      {"import", "records of runs that were made elsewhere: `import records FILE`, `verl LOG`, `mlflow EXPERIMENT`", setup_import},
      {"daemon", "run the daemon in the foreground; or see, stop, restart it, print its systemd unit", setup_daemon},
      {"completions", "a completion script for bash, zsh or fish", setup_completions, false, true},
      {"man", "the manual page: assay man | man -l -", setup_man, false, true},
      {"supervise", "what the daemon starts for each run", setup_supervise, true},
      {"serve-adds", "the process that the daemon keeps warm for `assay add`", setup_serve_adds, true},
      {"slurm-task", "what a Slurm job of ours executes on its node", setup_slurm_task, true},
  };
  return table;
}

std::string user_name() {
  const passwd* entry = ::getpwuid(::getuid());
  return entry != nullptr ? entry->pw_name : "user " + std::to_string(::getuid());
}

void add_json_flag(CLI::App& app, bool& json) { app.add_flag("--json", json, "print JSON"); }

void add_color_option(CLI::App& app, Color& color) {
  app.add_option("--color", color, "auto (on a terminal, unless NO_COLOR is set), always or never")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Color>{
          {"auto", Color::automatic}, {"always", Color::always}, {"never", Color::never}}))
      ->option_text("auto|always|never");
}

void add_what_options(CLI::App& app, SubmitOptions& options) {
  app.add_option("WHAT", options.what.words,
                 "a series (e13), a file (my.toml), a run of a series (e13/bf16), or the number of a former run")
      ->required();
  app.add_option("--seeds", options.what.seeds, "one run for each seed: 1,2,3")
      ->delimiter(',')
      ->take_all()
      ->expected(1);
  app.add_option("--only", options.what.only, "only these runs of the series: e13g-nvfp4,bf16; e13a means all e13a-…")
      ->delimiter(',')
      ->take_all()
      ->expected(1);
  app.add_option("--set", options.what.set, "KEY=VALUE in every config, e.g. optimizer.lr=1e-4; several times")
      ->take_all()
      ->expected(1);
  app.add_option("--after", options.after, "start when this run has succeeded; several times, or 17,18")
      ->delimiter(',')
      ->take_all()
      ->expected(1);
  app.add_option("--after-any", options.after_any, "start when this run has ended, however it did; several times, or 17,18")
      ->delimiter(',')
      ->take_all()
      ->expected(1);
  app.add_option("--group", options.group, "the group they count in; else schedule.group (`assay group` sets limits)");
  app.add_flag_callback("--slurm", [&options] { options.what.set.push_back("schedule.executor=slurm"); },
                        "on the Slurm cluster: --set schedule.executor=slurm");
  app.add_option("--priority", options.priority, "higher goes first; 0 if not given");
  app.add_option("--label", options.labels, "KEY=VALUE, kept with the run; several times")->take_all()->expected(1);
}

}  // namespace assay::runner

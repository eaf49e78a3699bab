// The experiment records in SQLite. All SQL of the project is in this folder.
//
// One writer (the daemon); any number of readers, who never wait for it (WAL). Writers wait for each other, up to a
// minute. Every record is first a file in a run's folder (docs/run-folder.md): the registry can be rebuilt from those.
// Schema: registry/schema/*.sql, one file a version; docs/registry.md.
// One object belongs to one thread at a time and must not be carried across fork(): open another instead.
// A call that finds the file damaged, full or unwritable throws std::runtime_error "FILE: REASON".
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace assay::registry {

// A sum type over `kind`; which other fields mean something is said beside each.
enum class StateKind : std::uint8_t {
  queued,     // waits for a slot
  blocked,    // waits for another run (`detail` says which)
  starting,   // a supervisor was started and has not reported
  running,
  succeeded,
  failed,     // exit_code or signal, detail = last error line
  killed,     // detail = by whom
  lost,       // its supervisor died without an exit record
  stalled,    // ended by the watchdog: no progress for stall_timeout
  skipped,    // detail = the dependency that failed
};
const char* name(StateKind kind);
std::optional<StateKind> parse_state(const std::string& name);
bool is_final(StateKind kind);

struct State {
  StateKind kind = StateKind::queued;
  std::optional<int> exit_code, signal;
  std::string detail;
  std::string fault = {};              // of an end that is no success: infrastructure | stalled | code; "": nothing is said
};

struct SeriesRow {
  std::string id, title, goal, json;   // json: the whole spec::Series as reports need it (causes, success_accuracy, …)
};

struct NewRun {
  std::string series, run;             // series id, run id within it
  std::int64_t seed = 0;
  std::string batch;                   // runs queued by one command share it
  std::string config_json, config_sha256, derived_json;
  std::string run_json;                // docs/run-folder.md
  std::string code_json, environment_json, inputs_json;
  std::int64_t priority = 0;
  std::string group;                   // of the queue; "": none
  std::vector<std::int64_t> after;     // run numbers it waits for (success)
  std::vector<std::int64_t> after_any; // run numbers it waits for (any end)
};

struct RunRow {
  std::int64_t number = 0;             // unique for ever, never reused
  std::string series, run;
  std::int64_t seed = 0;
  std::string batch, folder;
  std::string config_json, config_sha256, derived_json, run_json;
  std::int64_t priority = 0;
  std::string group;
  std::vector<std::int64_t> after, after_any;
  bool held = false;                   // paused: does not start, or its processes are stopped
  bool hidden = false;                 // `assay clean`: not in the short listing
  double not_before = 0;               // unix seconds; of a retry that waits for its time
  State state;
  std::int64_t attempt = 0;            // attempts started so far
  double created = 0, started = 0, ended = 0;  // unix seconds; 0: not yet
};

// What of a run may change after it was added; what is not given stays.
struct RunEdit {
  struct Config {                      // another configuration, frozen anew
    std::string config_json, config_sha256, derived_json, run_json;
  };
  std::optional<std::int64_t> priority;
  std::optional<std::string> group;
  std::optional<std::vector<std::int64_t>> after, after_any;
  std::optional<bool> held, hidden;
  std::optional<double> not_before;
  std::optional<Config> config;
};

struct Progress {                      // of one run, kept current by ingest
  std::int64_t step = -1, total_steps = -1;
  std::optional<double> score, accuracy;   // last critic/score/mean, last val-core accuracy
  double last_time = 0;                // unix seconds of the last metrics line
};

struct MetricPoint {
  std::int64_t step;
  std::string key;
  double value;                        // comes back bit for bit
};

struct Attempt {
  std::int64_t attempt = 0;            // from 1
  State state;                         // the run's latest state during this attempt
  double started = 0, ended = 0;       // unix seconds; ended 0: not yet
};

struct RunFacts {                      // as NewRun had them
  std::string code_json, environment_json, inputs_json;
};

struct Outcome {                       // one test problem of one evaluation
  std::int64_t index;
  std::string outcome;                 // correct | wrong | unparsable | scorer_error
  bool correct = false, format_right = false, arithmetic_right = false;
};

struct Evaluation {
  std::int64_t step = 0, problems = 0, correct = 0, format_right = 0, arithmetic_right = 0;
  std::string quant, trained_quant;    // labels: measured under, trained under
  std::string data_sha256;
  std::vector<Outcome> outcomes;       // empty unless asked for
};

struct Event {
  std::int64_t run = 0;                // 0: of no run
  double time = 0;
  std::int64_t step = -1;
  std::string kind, message, data_json;
};

// Something said about a series, a run id or a run. A line of records.jsonl first (docs/run-folder.md); never changed: a
// later line with the same key (series, run, run_id, kind, subject) is its next version.
struct Record {
  std::string series;
  std::int64_t run = 0;                // 0: not about one run, but
  std::string run_id;                  // about this id of the series whatever the seed; empty: about the whole series
  std::string kind;                    // hypothesis | note | tag | verdict | conclusion | cause | verify
  std::string subject;                 // a note's number, a tag's word, a cause's name; empty for the others
  std::int64_t version = 0;            // from 1
  bool newest = false;                 // the highest version of its key
  bool withdrawn = false;              // this version takes the record back (a tag removed); `text` may say why
  double time = 0;                     // unix seconds
  std::string author;                  // user name
  std::string source;                  // command | series file | verify | import
  std::string text;                    // as written
  std::string data_json = "{}";        // cause: {"run", "against", "status"}; verify: docs/manual.md
};
bool is_record_kind(const std::string& kind);

class Registry {
 public:
  enum class Access { read_write, read_only };
  // Opens or makes it; migrates in one BEGIN IMMEDIATE after a backup copy. Throws std::runtime_error with one sentence
  // when the file is not an assay registry, is from a newer assay, or lies on a file system where WAL does not work.
  static Registry open(const std::filesystem::path& file, Access access);
  ~Registry();
  Registry(Registry&&) noexcept;
  Registry& operator=(Registry&&) noexcept;

  // What `body` writes, in one transaction: one fsync for a whole round of ingest. Rolled back when it throws.
  // May be nested; the outermost commits.
  void batch(const std::function<void()>& body);

  // Makes the write-ahead log as long as it gets before SQLite begins it anew (4 MiB), with zeros, which SQLite takes for
  // its end: a commit then overwrites, and need not wait for a longer file to be noted as well. For whoever writes often;
  // a disk without room for it does without.
  void lay_out_log();

  // Another number whenever another connection has committed since the last call; what this one commits changes nothing.
  std::int64_t version_of_others() const;

  void put_series(const SeriesRow& series);
  std::optional<SeriesRow> series(const std::string& id) const;
  std::vector<SeriesRow> all_series() const;

  // Gives each run its number, in state queued. make_folder(number, run) makes the run's frozen folder and returns its
  // path; when it throws, all is rolled back and the exception passes on, so that no run exists without its folder
  // (folders already made are the caller's to remove). Throws std::invalid_argument when the series has not been put,
  // an `after` names no run, or two runs get one folder.
  std::vector<std::int64_t> add_runs(const std::vector<NewRun>& runs,
                                     const std::function<std::string(std::int64_t number, const NewRun&)>& make_folder);
  std::optional<RunRow> run(std::int64_t number) const;
  struct RunFilter {
    std::optional<std::string> series, run, batch;
    std::optional<std::int64_t> seed;
    std::vector<StateKind> states;     // empty: any
    std::int64_t limit = 0;            // > 0: the newest so many, newest first
    bool hidden = true;                // false: without those that `assay clean` took away
    bool texts = true;                 // false: config_json, derived_json and run_json stay empty (cheaper)
  };
  std::vector<RunRow> runs(const RunFilter& filter) const;  // by number
  // The number of the newest run of each (run id, seed) of a series, ascending. Read from an index alone.
  std::vector<std::int64_t> newest_of_series(const std::string& series) const;
  // Latest batch of a series, or nothing.
  std::optional<std::string> latest_batch(const std::string& series) const;

  // One transaction: compare-and-set from `expected`; false when the run is not in that state any more.
  // starting: increments attempt, sets started, writes an attempts row. Final states: set ended. queued or blocked
  // (a retry): clears started and ended. The new state is a line of states.jsonl in the run's folder first (journal.h). Throws std::invalid_argument when there is no such run.
  bool transition(std::int64_t number, StateKind expected, const State& next, double now);

  // In one transaction; states are not touched. Throws std::invalid_argument when there is no such run, or a run it is to
  // wait for.
  void edit_run(std::int64_t number, const RunEdit& edit);
  // Limits of the queue's groups: runs of one that go at once. Nothing: no limit any more.
  void set_group(const std::string& name, std::optional<int> slots);
  std::map<std::string, int> groups() const;
  // Before another attempt that begins from nothing: what the last one wrote (metrics, evaluations, events, how far files
  // were read) is taken out. Its files are kept, attempts/N in the run's folder.
  void forget_progress(std::int64_t run);

  // Ingest. Replaying the same rows is harmless. A metric's number is its name's for ever, unless the batch it was given
  // out in is rolled back.
  std::int64_t metric_key(const std::string& name);
  // The metrics of one step, by number: those of a number that is there already are replaced, others are kept. `values` are
  // sorted; of a number that comes twice the last counts. Cost: one row.
  void put_metric_line(std::int64_t run, std::int64_t step, std::vector<std::pair<std::int64_t, double>>& values);
  void put_progress(std::int64_t run, const Progress& progress);
  void put_metrics(std::int64_t run, const std::vector<MetricPoint>& points, const Progress& progress);
  // Replaces the one of the same step and quant. Throws std::invalid_argument on an outcome word it does not know.
  void put_evaluation(std::int64_t run, const Evaluation& evaluation);
  void put_event(const Event& event);                     // the same event again changes nothing
  void put_document(std::int64_t run, const std::string& kind, const std::string& json);  // quant-report, doctor, …
  std::optional<std::string> document(std::int64_t run, const std::string& kind) const;
  // How far each file of a run folder has been read: file name -> bytes.
  std::int64_t ingested_bytes(std::int64_t run, const std::string& file) const;
  void set_ingested_bytes(std::int64_t run, const std::string& file, std::int64_t bytes);

  Progress progress(std::int64_t run) const;
  // By step, then key.
  std::vector<MetricPoint> metrics(std::int64_t run, const std::optional<std::string>& key = {}) const;
  std::vector<MetricPoint> metrics_since(std::int64_t run, std::int64_t first_step) const;
  std::vector<std::string> metric_names(std::int64_t run) const;   // sorted
  // Of the last step that has it. Cost: the steps after that one.
  std::optional<double> last_value(std::int64_t run, const std::string& key) const;
  std::vector<Evaluation> evaluations(std::int64_t run, bool with_outcomes) const;
  std::vector<Event> events(std::int64_t run) const;      // by time; run 0: those of no run
  std::vector<Attempt> attempts(std::int64_t run) const;
  std::optional<RunFacts> facts(std::int64_t run) const;

  // Adds one line of a records.jsonl, which ends at byte `line_end` of it, and returns it with its version (and, for a
  // note without one, its number); nothing when it was there already. With `run` given, series and run_id are that run's.
  // Throws std::invalid_argument when there is no such run, series or kind.
  std::optional<Record> put_record(const Record& record, std::int64_t line_end);
  // How far the records.jsonl of a run's folder (run 0: of the series' folder) has been read.
  std::int64_t recorded_bytes(const std::string& series, std::int64_t run) const;
  // All versions, by time. About this run, or about its run id in its series (`run` is 0 there).
  std::vector<Record> records_of_run(std::int64_t run) const;
  // All versions, by time: about the series (run_id empty), about its run ids, and about each of its runs.
  std::vector<Record> records_of_series(const std::string& series) const;

  // Looks through the whole file: what SQLite's integrity check and the foreign keys complain of; empty: nothing.
  std::vector<std::string> problems() const;
  // The same without foreign keys, and without the metrics and outcomes, whose pages grow with every step: milliseconds.
  std::vector<std::string> quick_problems() const;
  // A whole copy at one moment (SQLite's backup API), while others read and write. Throws std::runtime_error
  // "FILE: REASON" when `copy` is there already or cannot be written; nothing is left behind then.
  void back_up(const std::filesystem::path& copy) const;
  // Puts a run back under its number, as `assay rebuild` found it in its folder. Its series and the runs in `after` must
  // be there.
  void restore_run(const RunRow& row, const RunFacts& facts, const std::vector<Attempt>& attempts);

 private:
  struct Impl;
  explicit Registry(std::unique_ptr<Impl> impl);
  void put_dependencies(std::int64_t number, const std::optional<std::vector<std::int64_t>>& after,
                        const std::optional<std::vector<std::int64_t>>& after_any);
  std::unique_ptr<Impl> impl_;
};

}  // namespace assay::registry

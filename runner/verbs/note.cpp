#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/records.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

using nlohmann::json;
using registry::Record;
using registry::Registry;

// What the four verbs have in common.
struct Common {
  std::string what;
  bool any_seed = false, all = false, json = false;
};

void add_common(CLI::App& app, Common& common, const char* what) {
  app.add_option("WHAT", common.what, what)->required();
  app.add_flag("--any-seed", common.any_seed, "about the run's id in its series, whatever the seed; not about one run");
  app.add_flag("--all", common.all, "when listing: former versions, and what was taken back, too");
  add_json_flag(app, common.json);
}

Registry open(const Paths& paths) { return Registry::open(paths.registry(), Registry::Access::read_only); }

int list(const Common& common, const std::vector<std::string>& kinds) {
  const Paths paths = user_paths();
  const Registry registry = open(paths);
  const Record about = record_about(registry, common.what, common.any_seed);
  std::vector<Record> records;
  for (Record& record : about.run != 0 ? registry.records_of_run(about.run) : registry.records_of_series(about.series)) {
    if (about.run == 0 && !about.run_id.empty() && record.run_id != about.run_id) continue;
    if (!kinds.empty() && std::find(kinds.begin(), kinds.end(), record.kind) == kinds.end()) continue;
    records.push_back(std::move(record));
  }
  if (!common.json) {
    std::fputs(records_text(registry, records, common.all).c_str(), stdout);
    return kOk;
  }
  json array = json::array();
  for (const Record& record : records) array.push_back(to_json(record));
  std::printf("%s\n", dump(array).c_str());
  return kOk;
}

int write(const Common& common, const std::vector<Record>& records) {
  const Paths paths = user_paths();
  const std::vector<Record> written = send_records(paths, records);
  if (common.json) {
    json array = json::array();
    for (const Record& record : written) array.push_back(to_json(record));
    std::printf("%s\n", dump(array).c_str());
    return kOk;
  }
  const Registry registry = open(paths);
  for (const Record& record : written)
    std::printf("%s: %s%s%s%s recorded as version %lld\n", about(registry, record).c_str(), record.kind.c_str(),
                record.subject.empty() ? "" : " ", record.subject.c_str(), record.withdrawn ? ", taken back," : "",
                static_cast<long long>(record.version));
  return kOk;
}

Record start(const Common& common) { return record_about(open(user_paths()), common.what, common.any_seed); }

// A record that is to be changed or taken back must be there.
Record known(const Common& common, Record record) {
  const Registry registry = open(user_paths());
  for (const Record& other : record.run != 0 ? registry.records_of_run(record.run)
                                             : registry.records_of_series(record.series))
    if (other.newest && !other.withdrawn && other.run == record.run && other.run_id == record.run_id &&
        other.kind == record.kind && other.subject == record.subject)
      return record;
  throw UserError(kNoSuchRun, about(registry, record) + ": there is no " + record.kind +
                                  (record.subject.empty() ? "" : " " + record.subject) + "; type `assay note " +
                                  common.what + "` to see what there is");
}

}  // namespace

std::function<int()> setup_note(CLI::App& app) {
  struct Options {
    Common common;
    std::string text, edit;
    bool hypothesis = false, conclusion = false, take_back = false;
  };
  const auto options = std::make_shared<Options>();
  add_common(app, options->common, "a series or a run");
  app.add_option("TEXT", options->text, "what to note; without it, everything that is recorded is listed");
  auto* hypothesis = app.add_flag("--hypothesis", options->hypothesis, "TEXT is the hypothesis, not a note");
  auto* conclusion = app.add_flag("--conclusion", options->conclusion, "TEXT is the conclusion")->excludes(hypothesis);
  app.add_option("--edit", options->edit, "TEXT is a new version of the note of this number")
      ->excludes(hypothesis)
      ->excludes(conclusion);
  app.add_flag("--take-back", options->take_back, "take the hypothesis, the conclusion or the note --edit back");
  return [options] {
    const Common& common = options->common;
    if (options->text.empty() && !options->take_back) {
      if (!options->edit.empty()) throw UserError(kUsage, "--edit " + options->edit + ": its new text is missing");
      return list(common, options->hypothesis   ? std::vector<std::string>{"hypothesis"}
                          : options->conclusion ? std::vector<std::string>{"conclusion"}
                                                : std::vector<std::string>{});
    }
    Record record = start(common);
    record.kind = options->hypothesis ? "hypothesis" : options->conclusion ? "conclusion" : "note";
    record.subject = options->edit;
    record.text = options->text;
    record.withdrawn = options->take_back;
    if (options->take_back && record.kind == "note" && options->edit.empty())
      throw UserError(kUsage, "--take-back: which note is missing; give its number with --edit");
    if (options->take_back || !options->edit.empty()) record = known(common, record);
    return write(common, {record});
  };
}

std::function<int()> setup_tag(CLI::App& app) {
  struct Options {
    Common common;
    std::vector<std::string> tags;
    std::string why;
    bool remove = false;
  };
  const auto options = std::make_shared<Options>();
  add_common(app, options->common, "a series or a run");
  app.add_option("TAG", options->tags, "words without spaces; without any, the tags are listed");
  app.add_option("--why", options->why, "why, in a sentence; reports leave a run tagged `excluded` out of comparisons and say this");
  app.add_flag("--remove", options->remove, "take these tags off again");
  return [options] {
    if (options->tags.empty()) return list(options->common, {"tag"});
    std::vector<Record> records;
    for (const std::string& tag : options->tags) {
      const bool good = !tag.empty() && std::all_of(tag.begin(), tag.end(), [](unsigned char c) { return c > 0x20 && c != 0x7f; });
      if (!good || tag.size() > 64)
        throw UserError(kUsage, "tag '" + tag + "': a tag is one word of at most 64 bytes; use `assay note` for a sentence");
      Record record = start(options->common);
      record.kind = "tag";
      record.subject = tag;
      record.text = options->why;
      record.withdrawn = options->remove;
      records.push_back(options->remove ? known(options->common, record) : record);
    }
    return write(options->common, records);
  };
}

std::function<int()> setup_verdict(CLI::App& app) {
  struct Options {
    Common common;
    std::string verdict, conclusion;
  };
  const auto options = std::make_shared<Options>();
  add_common(app, options->common, "a series or a run");
  app.add_option("VERDICT", options->verdict, "the verdict; without it, verdicts and conclusions are listed");
  app.add_option("--conclusion", options->conclusion, "what follows from it");
  return [options] {
    std::vector<Record> records;
    const auto say = [&](const char* kind, const std::string& text) {
      if (text.empty()) return;
      Record record = start(options->common);
      record.kind = kind;
      record.text = text;
      records.push_back(record);
    };
    say("verdict", options->verdict);
    say("conclusion", options->conclusion);
    if (records.empty()) return list(options->common, {"verdict", "conclusion", "verify"});
    return write(options->common, records);
  };
}

std::function<int()> setup_cause(CLI::App& app) {
  struct Options {
    Common common;
    std::string name, run, against, status, text;
    bool take_back = false;
  };
  const auto options = std::make_shared<Options>();
  add_common(app, options->common, "a series");
  app.add_option("NAME", options->name, "the cause, such as \"batch size\"; without it, the causes are listed");
  app.add_option("TEXT", options->text, "why");
  app.add_option("--run", options->run, "the run with the cause changed");
  app.add_option("--against", options->against, "the run it is compared with");
  app.add_option("--status", options->status, "what was found")
      ->check(CLI::IsMember({"ruled out", "found", "undecided"}));
  app.add_flag("--take-back", options->take_back, "take it back");
  return [options] {
    if (options->name.empty()) return list(options->common, {"cause"});
    Record record = start(options->common);
    if (record.run != 0 || options->common.any_seed)
      throw UserError(kUsage, "cause: a cause belongs to a series, and '" + options->common.what +
                                  "' is a run; give the series " + record.series);
    record.kind = "cause";
    record.subject = options->name;
    record.text = options->text;
    record.withdrawn = options->take_back;
    if (options->take_back) return write(options->common, {known(options->common, record)});
    if (options->run.empty() != options->against.empty())
      throw UserError(kUsage, "cause: a pair of runs is compared; give both --run and --against");
    if (options->run.empty() && options->status.empty())
      throw UserError(kUsage, "cause: give the pair of runs that tells (--run and --against), or --status");
    json data = json::object();
    const Registry registry = open(user_paths());
    for (const auto& [key, run] : {std::pair("run", options->run), std::pair("against", options->against)}) {
      if (run.empty()) continue;
      Registry::RunFilter filter;
      filter.series = record.series;
      filter.run = run;
      filter.limit = 1;
      filter.texts = false;
      if (registry.runs(filter).empty())
        throw UserError(kNoSuchRun, "cause: series " + record.series + " has no run '" + run + "'; type `assay status " +
                                        record.series + "` to see those there are");
      data[key] = run;
    }
    // What is not said again stays as the last version had it.
    for (const Record& former : registry.records_of_series(record.series))
      if (former.newest && !former.withdrawn && former.kind == "cause" && former.run == 0 && former.subject == record.subject) {
        json kept = json::parse(former.data_json);
        kept.update(data);
        data = kept;
        if (record.text.empty()) record.text = former.text;
      }
    if (!options->status.empty()) data["status"] = options->status;
    if (!data.contains("run"))
      throw UserError(kUsage, "cause: nothing says yet which pair of runs tells; give --run and --against");
    record.data_json = data.dump();
    return write(options->common, {record});
  };
}

}  // namespace assay::runner

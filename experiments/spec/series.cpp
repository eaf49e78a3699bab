#include "experiments/spec/series.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "experiments/spec/canonical.h"
#include "experiments/spec/checks.h"
#include "experiments/spec/derived.h"
#include "experiments/spec/resolve.h"
#include "support/suggest.h"

namespace assay::spec {

namespace fs = std::filesystem;

std::string Diagnostic::text() const {
  std::string where = file;
  if (line > 0) where += ":" + std::to_string(line) + ":" + std::to_string(column);
  return where + ": " + message;
}

namespace {

struct Baseline {
  const Settled* config = nullptr;  // nullptr: there is none, or it cannot be used
  std::string run, series;
};

void fill_mode(Config& config) {
  if (config.quant.mode.empty() || config.quant.format == "none")
    config.quant.mode = default_mode(config.quant.format);
}

class SeriesMaker {
 public:
  SeriesMaker(const Book& book, const Library& library, std::vector<Setting> overrides, Diagnostics& wrong)
      : book_(book), library_(library), overrides_(std::move(overrides)), wrong_(wrong) {}

  Series make() {
    const SeriesFile& file = book_.file;
    Series series;
    series.id = file.id.value;
    series.title = file.title;
    series.goal = file.goal;
    series.notes = file.notes;
    series.dates = file.dates;
    series.next_steps = file.next_steps;
    // A run of its own is judged as the series it builds on.
    if (file.single && !book_.bases.empty()) {
      series.success_accuracy = book_.bases.front()->file.success_accuracy.value_or(series.success_accuracy);
      series.cause_margin = book_.bases.front()->file.cause_margin.value_or(series.cause_margin);
    }
    series.success_accuracy = file.success_accuracy.value_or(series.success_accuracy);
    series.cause_margin = file.cause_margin.value_or(series.cause_margin);
    series.file = file.toml.path;
    series.source = file.toml.text;
    for (const auto& other : library_.books())
      if (other.get() != &book_) series.bases.push_back({other->file.toml.path, other->file.toml.text});
    check_baseline_circles();
    for (std::size_t i = 0; i < file.runs.size(); ++i)
      if (book_.runs[i]) series.runs.push_back(make_run(file.runs[i], *book_.runs[i]));
      else find_baseline(file.runs[i]);  // its base is wrong, and its baseline may be too
    for (const CauseEntry& cause : file.causes) series.causes.push_back(make_cause(cause));
    return series;
  }

 private:
  RunSpec make_run(const RunEntry& entry, const Settled& written) {
    RunSpec run;
    run.id = entry.id.value;
    run.title = entry.title;
    run.hypothesis = entry.hypothesis;
    run.published = entry.published;
    run.verdict = entry.verdict;
    run.conclusion = entry.conclusion;

    Settled settled = with_overrides(written);
    const std::string model = settled.absolute("model.path");
    const std::int64_t layers = layers_of(model);
    check_config(settled, entry.mark, layers, wrong_);
    const Baseline baseline = find_baseline(entry);
    run.baseline = baseline.run;
    run.baseline_series = baseline.series;
    if (baseline.config) compare(entry, written, settled, baseline, run);
    run.change = entry.change_in_words;
    if (run.change.empty())
      for (const auto& [key, change] : run.changed) run.change += (run.change.empty() ? "" : ", ") + key + ": " + change;

    run.config = settled.config;
    fill_mode(run.config);
    // Counts of a config that was refused mean nothing, and its patterns may not even run.
    if (wrong_.empty())
      run.derived = derive(run.config, model, settled.absolute("data.train"), settled.absolute("data.test"), layers);
    return run;
  }

  Settled with_overrides(Settled settled) const {
    if (!overrides_.empty()) settled.apply(overrides_);
    return settled;
  }

  // As the file has it, two equal runs are a mistake; that --set makes two equal is the user's wish.
  void compare(const RunEntry& entry, const Settled& written, const Settled& settled, const Baseline& baseline,
               RunSpec& run) {
    const bool judged = written.unknown.empty() && baseline.config->unknown.empty();
    if (judged && differences(*baseline.config, written).empty())
      wrong_.push_back(at(entry.baseline.mark, "run '" + run.id + "' does not differ from its baseline '" +
                                                   baseline.run + "'; wanted at least one changed key"));
    const bool here = baseline.series == book_.file.id.value;
    run.changed = differences(here ? with_overrides(*baseline.config) : *baseline.config, settled);
  }

  Baseline find_baseline(const RunEntry& entry) {
    const Text& text = entry.baseline;
    if (!text.given) {
      if (!entry.change.empty())
        wrong_.push_back(at(entry.id.mark, "run '" + entry.id.value + "' changes something and names no baseline; wanted "
                                           "baseline = \"RUN\", the run it is compared with, or \"\" for none"));
      return {};
    }
    if (text.value.empty()) return {};
    const Reference to = split_reference(text.value);
    const std::string& own_id = !to.run.empty() && to.series == book_.file.id.value ? to.run : text.value;
    if (const auto own = book_.index.find(own_id); own != book_.index.end()) {
      if (own_id == entry.id.value) {
        wrong_.push_back(at(text.mark, "run '" + own_id + "' is its own baseline"));
        return {};
      }
      return {settled_run(book_, own->second), own_id, book_.file.id.value};
    }
    if (!to.run.empty() && to.series != book_.file.id.value) return find_in_named(text, to);
    return find_in_bases(text);
  }

  Baseline find_in_named(const Text& text, const Reference& to) {
    const auto named = book_.named.find(to.series);
    const Book* book = named == book_.named.end() ? nullptr : named->second;
    if (!book) return {};  // reported when it was looked up
    const auto found = book->index.find(to.run);
    if (found != book->index.end()) return {settled_run(*book, found->second), to.run, book->file.id.value};
    wrong_.push_back(at(text.mark, "baseline '" + text.value + "': series '" + to.series + "' has no run '" + to.run +
                                       "'" + support::did_you_mean(to.run, ids({book}))));
    return {};
  }

  // The series this one builds on, and those that one builds on, nearest first.
  Baseline find_in_bases(const Text& text) {
    std::vector<const Book*> near{&book_};
    for (std::size_t i = 0; i < near.size(); ++i) {
      if (const auto found = near[i]->index.find(text.value); found != near[i]->index.end())
        return {settled_run(*near[i], found->second), text.value, near[i]->file.id.value};
      for (const Book* base : near[i]->bases)
        if (std::find(near.begin(), near.end(), base) == near.end()) near.push_back(base);
    }
    std::string message = "baseline '" + text.value + "' does not exist";
    const Strings known = ids(near);
    const std::string meant = support::did_you_mean(text.value, known);
    message += meant.empty() ? "; wanted the id of a run of this file or of the series it is based on" : meant;
    wrong_.push_back(at(text.mark, message));
    return {};
  }

  static const Settled* settled_run(const Book& book, std::size_t i) { return book.runs[i] ? &*book.runs[i] : nullptr; }

  static Strings ids(const std::vector<const Book*>& books) {
    Strings result;
    for (const Book* book : books)
      for (const auto& [id, unused] : book->index) result.push_back(id);
    return result;
  }

  void check_baseline_circles() {
    const auto& runs = book_.file.runs;
    std::vector<int> seen(runs.size(), -1);  // the walk that passed here
    for (std::size_t start = 0; start < runs.size(); ++start) {
      std::size_t at_run = start;
      std::vector<std::size_t> walk;
      while (seen[at_run] < 0) {
        seen[at_run] = static_cast<int>(start);
        walk.push_back(at_run);
        const auto next = book_.index.find(runs[at_run].baseline.value);
        if (next == book_.index.end() || next->second == at_run) break;  // its own baseline is reported elsewhere
        at_run = next->second;
        if (seen[at_run] != static_cast<int>(start)) continue;
        std::string circle;
        for (auto step = std::find(walk.begin(), walk.end(), at_run); step != walk.end(); ++step)
          circle += runs[*step].id.value + " -> ";
        wrong_.push_back(at(runs[walk.back()].baseline.mark, "circular baseline: " + circle + runs[at_run].id.value));
        break;
      }
    }
  }

  Cause make_cause(const CauseEntry& entry) {
    const std::string what = entry.name.is_text ? "cause '" + entry.name.value + "'" : "[[cause]]";
    for (const Text* run : {&entry.run, &entry.against})
      if (run->is_text && !book_.index.contains(run->value))
        wrong_.push_back(at(run->mark, what + ": there is no run '" + run->value +
                                           "' in this file" + support::did_you_mean(run->value, ids({&book_}))));
    if (entry.run.is_text && entry.against.is_text && entry.run.value == entry.against.value)
      wrong_.push_back(at(entry.against.mark, what + " compares run '" + entry.run.value + "' with itself"));
    return {entry.name.value, entry.run.value, entry.against.value, entry.note};
  }

  std::int64_t layers_of(const std::string& model) {
    const auto known = layers_.find(model);
    if (known != layers_.end()) return known->second;
    return layers_[model] = model.empty() ? -1 : read_model_facts(model).layers;
  }

  const Book& book_;
  const Library& library_;
  std::vector<Setting> overrides_;
  Diagnostics& wrong_;
  std::map<std::string, std::int64_t> layers_;
};

// The file asked for first, then the others, then options; each by place, nothing twice.
void put_in_order(Diagnostics& wrong, const std::string& first) {
  const auto kind = [&](const Diagnostic& d) { return d.file == first ? 0 : d.file.starts_with("--set ") ? 2 : 1; };
  std::stable_sort(wrong.begin(), wrong.end(), [&](const Diagnostic& a, const Diagnostic& b) {
    return std::make_tuple(kind(a), a.file, a.line, a.column) < std::make_tuple(kind(b), b.file, b.line, b.column);
  });
  std::set<std::string> said;
  std::erase_if(wrong, [&](const Diagnostic& d) { return !said.insert(d.text()).second; });
}

}  // namespace

std::variant<Series, Diagnostics> read_series(const fs::path& file, const std::vector<Override>& overrides) {
  Diagnostics wrong;
  std::vector<Setting> settings;
  for (const Override& option : overrides)
    if (auto setting = read_override(option, wrong)) settings.push_back(std::move(*setting));
  Library library(wrong);
  Series series;
  if (const Book* book = library.open(file)) series = SeriesMaker(*book, library, std::move(settings), wrong).make();
  if (wrong.empty()) return series;
  put_in_order(wrong, file.string());
  return wrong;
}

std::variant<Overridden, Diagnostics> with_overrides(const Config& config, const Derived& derived,
                                                     const std::vector<Override>& overrides) {
  Diagnostics wrong;
  Settled settled;
  settled.config = config;
  std::vector<Setting> settings;
  Mark mark;
  for (const Override& option : overrides) {
    if (mark.file.empty()) mark.file = "--set " + option.key + "=" + option.value;
    if (auto setting = read_override(option, wrong)) settings.push_back(std::move(*setting));
  }
  settled.apply(settings);
  const auto path = [&](std::string_view key, const std::string& before) {
    return settled.marks.contains(key) ? settled.absolute(key) : before;
  };
  const std::string model = path("model.path", derived.model_path);
  const std::int64_t layers = model.empty() ? -1 : read_model_facts(model).layers;
  // A mode that was filled in for the former format was never anybody's wish.
  if (settled.config.quant.format != config.quant.format && !settled.marks.contains("quant.mode"))
    settled.config.quant.mode.clear();
  check_config(settled, mark, layers, wrong);
  if (!wrong.empty()) return wrong;
  fill_mode(settled.config);
  return Overridden{settled.config, derive(settled.config, model, path("data.train", derived.train_path),
                                           path("data.test", derived.test_path), layers)};
}

}  // namespace assay::spec

#include "runner/verl_import.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <set>

#include "experiments/spec/canonical.h"
#include "runner/console/number.h"
#include "runner/errors.h"
#include "runner/importing.h"
#include "runner/resolve.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using registry::StateKind;

constexpr std::uintmax_t kLargestLog = 1ULL << 30;   // bytes
constexpr int kDeepest = 64;
constexpr std::int64_t kGsm8kProblems = 1319;
constexpr std::size_t kLongestDetail = 500;

bool digit(char c) { return c >= '0' && c <= '9'; }

class PythonReader {
 public:
  explicit PythonReader(std::string_view text) : text_(text) {}
  std::optional<json> value(int depth = 0) {
    skip();
    if (at_ >= text_.size() || depth > kDeepest) return std::nullopt;
    const char c = text_[at_];
    if (c == '{') return dict(depth);
    if (c == '[') return list(depth, ']');
    if (c == '(') return list(depth, ')');
    if (c == '\'' || c == '"') return quoted();
    const std::size_t begin = at_;
    while (at_ < text_.size() && std::string_view(",}])\n: ").find(text_[at_]) == std::string_view::npos) ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (word == "None") return json(nullptr);
    if (word == "True") return json(true);
    if (word == "False") return json(false);
    if (const auto number = console::parse_number(word)) {
      if (word.find_first_of(".eEn") == std::string_view::npos && std::fabs(*number) < 1e15) return json(static_cast<std::int64_t>(*number));
      if (std::isfinite(*number)) return json(*number);
      return json(std::string(word));
    }
    return std::nullopt;
  }
  std::size_t used() const { return at_; }

 private:
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }
  bool take(char c) {
    skip();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::optional<json> quoted() {
    std::string result;
    // Python joins texts that stand side by side; pprint breaks long ones that way.
    for (;;) {
      const char quote = text_[at_++];
      while (at_ < text_.size() && text_[at_] != quote) {
        if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
          const char escaped = text_[++at_];
          result += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
        } else {
          result += text_[at_];
        }
        ++at_;
      }
      if (at_ >= text_.size()) return std::nullopt;
      ++at_;
      const std::size_t here = at_;
      skip();
      if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) {
        at_ = here;
        return json(result);
      }
    }
  }
  std::optional<json> dict(int depth) {
    ++at_;
    json result = json::object();
    if (take('}')) return result;
    for (;;) {
      skip();
      if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) return std::nullopt;
      const auto key = quoted();
      if (!key || !take(':')) return std::nullopt;
      auto entry = value(depth + 1);
      if (!entry) return std::nullopt;
      result[key->get<std::string>()] = std::move(*entry);
      if (take(',')) {
        if (take('}')) return result;
        continue;
      }
      return take('}') ? std::optional(result) : std::nullopt;
    }
  }
  std::optional<json> list(int depth, char close) {
    ++at_;
    json result = json::array();
    if (take(close)) return result;
    for (;;) {
      auto entry = value(depth + 1);
      if (!entry) return std::nullopt;
      result.push_back(std::move(*entry));
      if (take(',')) {
        if (take(close)) return result;
        continue;
      }
      return take(close) ? std::optional(result) : std::nullopt;
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// A line as its program wrote it: no escape sequences, no Ray prefix.
std::string plain(std::string_view line) {
  std::string text = console::without_controls(line);
  while (!text.empty() && text[0] == '(') {
    const std::size_t close = text.find(')');
    if (close == std::string::npos || close > 200 || text.find(" pid=") > close) break;
    text.erase(0, text.size() > close + 1 && text[close + 1] == ' ' ? close + 2 : close + 1);
  }
  return text;
}

// "2026-01-15 17:11:58" or with a T, anywhere in the line; 0: none.
double time_in(const std::string& line) {
  for (std::size_t i = 0; i + 19 <= line.size(); ++i) {
    if (!digit(line[i]) || (i > 0 && digit(line[i - 1])) || line[i + 4] != '-') continue;
    std::tm time{};
    std::string piece = line.substr(i, 19);
    if (piece[10] == 'T') piece[10] = ' ';
    const char* end = ::strptime(piece.c_str(), "%Y-%m-%d %H:%M:%S", &time);
    if (end == piece.c_str() + 19 && time.tm_year >= 100) return static_cast<double>(::timegm(&time));
  }
  return 0;
}

// "e13g_training_20260115_171158.log"
double time_in_name(const std::string& name) {
  for (std::size_t i = 0; i + 15 <= name.size(); ++i) {
    std::tm time{};
    const std::string piece = name.substr(i, 15);
    if ((i > 0 && digit(name[i - 1])) || piece[8] != '_' || !digit(piece[0])) continue;
    if (::strptime(piece.c_str(), "%Y%m%d_%H%M%S", &time) == piece.c_str() + 15 && time.tm_year >= 100)
      return static_cast<double>(::timegm(&time));
  }
  return 0;
}

// "commit a04eacda", "git commit: a04e…", "HEAD is now at a04eacda …"
std::string commit_in(const std::string& line) {
  for (const char* word : {"commit", "HEAD is now at"}) {
    std::size_t at = line.find(word);
    if (at == std::string::npos) continue;
    at = line.find_first_not_of(" :='\"", at + std::string(word).size());
    if (at == std::string::npos) continue;
    std::size_t end = at;
    while (end < line.size() && ((line[end] >= 'a' && line[end] <= 'f') || digit(line[end]))) ++end;
    const bool whole = end == line.size() || std::string_view(" ,;.)'\"").find(line[end]) != std::string_view::npos;
    if (whole && end - at >= 7 && end - at <= 40) return line.substr(at, end - at);
  }
  return "";
}

std::int64_t integer_at(const std::string& line, std::size_t at) {
  std::int64_t value = 0;
  std::size_t digits = 0;
  while (at < line.size() && digit(line[at]) && digits < 15) value = value * 10 + (line[at++] - '0'), ++digits;
  return digits == 0 ? -1 : value;
}

// hydra's KEY=VALUE words of a command line in the log.
void overrides_in(const std::string& line, std::map<std::string, std::string>& overrides) {
  if (line.find("main_ppo") == std::string::npos && line.find('=') == std::string::npos) return;
  for (std::size_t begin = 0; begin < line.size();) {
    const std::size_t end = std::min(line.find(' ', begin), line.size());
    std::string word = line.substr(begin, end - begin);
    begin = end + 1;
    if (!word.empty() && (word[0] == '+' || word[0] == '\'' || word[0] == '"')) word.erase(0, word.find_first_not_of("+'\""));
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == word.size() || word[equals + 1] == '=') continue;
    const std::string key = word.substr(0, equals);
    const bool dotted = key.find('.') != std::string::npos && key.front() >= 'a' && key.front() <= 'z' &&
                        std::all_of(key.begin(), key.end(), [](char c) { return (c >= 'a' && c <= 'z') || digit(c) || c == '.' || c == '_'; });
    if (!dotted) continue;
    std::string value = word.substr(equals + 1);
    value.erase(value.find_last_not_of("'\"\\") + 1);
    overrides[key] = value;
  }
}

std::string id_of(const std::string& name) {
  std::string id;
  for (const char c : fs::path(name).stem().string()) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    id += (lower >= 'a' && lower <= 'z') || digit(lower) || lower == '.' || lower == '_' || lower == '-' ? lower : '-';
  }
  while (!id.empty() && (id[0] == '.' || id[0] == '_' || id[0] == '-')) id.erase(0, 1);
  if (id.empty()) id = "log";
  return id.substr(0, 90);
}

const char* const kValPrefixes[] = {"val-core/", "val/test_score/"};

// step -> accuracy of the key that verl's users look at; `key` is which.
std::map<std::int64_t, double> accuracies(const console::VerlLog::Run& run, std::string& key) {
  std::map<std::int64_t, double> found;
  for (const auto& [step, values] : run.steps)
    for (const auto& [name, value] : values)
      for (const char* prefix : kValPrefixes)
        if (name.rfind(prefix, 0) == 0 && (key.empty() || name == key)) {
          if (prefix == std::string_view("val-core/") && name.find("/acc/") == std::string::npos) continue;
          key = name;
          found[step] = value;
        }
  return found;
}

// The accuracies as counts of so many problems; empty when one of them is no share of it.
std::map<std::int64_t, std::int64_t> counts_of(const std::map<std::int64_t, double>& accuracy, std::int64_t problems) {
  std::map<std::int64_t, std::int64_t> counts;
  for (const auto& [step, share] : accuracy) {
    const double count = share * static_cast<double>(problems);
    if (!(share >= 0 && share <= 1) || std::fabs(count - std::round(count)) > 1e-6 * static_cast<double>(problems)) return {};
    counts[step] = std::llround(count);
  }
  return counts;
}

std::string content_of(const console::VerlLog::Run& run) {
  std::string text;
  char number[64];
  for (const auto& [step, values] : run.steps)
    for (const auto& [key, value] : values) {
      std::snprintf(number, sizeof number, "%lld %.17g ", static_cast<long long>(step), value);
      text += number + key + "\n";
    }
  return support::sha256_hex(text);
}

}  // namespace

std::optional<json> parse_python(std::string_view text, std::size_t& used) {
  PythonReader reader(text);
  auto value = reader.value();
  used = reader.used();
  return value;
}

VerlFacts verl_facts(std::string_view text) {
  VerlFacts facts;
  std::string all;       // plain lines, for what goes over several
  std::vector<std::size_t> dicts;
  bool in_traceback = false;
  for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    const std::string line = plain(text.substr(begin, std::min<std::size_t>(end - begin, 1 << 20)));
    if (line.rfind("{'", 0) == 0 && dicts.size() < 100) dicts.push_back(all.size());
    all += line + "\n";
    if (const double time = time_in(line); time > 0) {
      if (facts.first_time == 0) facts.first_time = time;
      facts.last_time = time;
    }
    if (facts.commit.empty()) facts.commit = commit_in(line);
    if (const std::size_t at = line.find("otal training steps: "); at != std::string::npos)
      facts.planned_steps = std::max(facts.planned_steps, integer_at(line, at + 21));
    // tqdm: "Training Progress:  69%|██████▉   | 20/29 [1:02:03<27:54, …]"
    if (const std::size_t at = line.rfind("Training Progress:"); at != std::string::npos)
      if (const std::size_t bar = line.rfind("| "); bar != std::string::npos && bar > at)
        if (const std::size_t slash = line.find('/', bar); slash != std::string::npos && slash < bar + 24)
          facts.planned_steps = std::max(facts.planned_steps, integer_at(line, slash + 1));
    if (line.find("Final validation metrics") != std::string::npos) facts.said_it_ended = true;
    if (line.rfind("Traceback (most recent call last)", 0) == 0) {
      in_traceback = true;
    } else if (in_traceback && !line.empty() && line[0] != ' ') {
      in_traceback = false;
      facts.error = line.substr(0, kLongestDetail);
    } else if (console::parse_verl_line(line)) {
      facts.error.clear();  // it went on
    }
    overrides_in(line, facts.overrides);
  }
  for (const std::size_t begin : dicts) {
    std::size_t used = 0;
    auto value = parse_python(std::string_view(all).substr(begin), used);
    // verl's own dump is the one with the sections of its config; other programs print dicts, too.
    if (value && value->is_object() && (value->contains("actor_rollout_ref") || value->contains("trainer"))) {
      facts.config = std::move(*value);
      break;
    }
  }
  if (facts.planned_steps < 0 && facts.config.is_object() && facts.config.contains("trainer") && facts.config["trainer"].is_object()) {
    const json steps = facts.config["trainer"].value("total_training_steps", json(nullptr));
    if (steps.is_number_integer()) facts.planned_steps = steps.get<std::int64_t>();
  }
  return facts;
}

registry::State verl_state(const console::VerlLog::Run& run, const VerlFacts& facts) {
  const std::int64_t last = run.steps.empty() ? 0 : run.steps.rbegin()->first;
  if (!facts.error.empty()) return {StateKind::failed, {}, {}, facts.error};
  const std::string planned = facts.planned_steps > 0 ? " of " + std::to_string(facts.planned_steps) : "";
  if (!run.cut_off && (facts.said_it_ended || (facts.planned_steps > 0 && last >= facts.planned_steps))) return {StateKind::succeeded, {}, {}, ""};
  std::string detail = "the log ends at step " + std::to_string(last) + planned;
  if (run.cut_off) detail += ", within a line";
  else if (planned.empty()) detail += " and does not say how many were planned";
  return {StateKind::lost, {}, {}, detail};
}

std::vector<VerlImported> import_verl(const Paths& paths, const VerlImportOptions& options) {
  std::optional<ResolvedSeries> like;
  if (!options.like.empty()) {
    ResolveOptions words;
    words.words = {options.like};
    like = resolve(words, nullptr).front();
    if (like->runs.size() != 1) throw UserError(kUsage, "--like " + options.like + ": that names several runs; write SERIES/RUN");
  }
  const std::string series_id = options.series.empty() ? "verl" : options.series;
  if (id_of(series_id) != series_id) throw UserError(kUsage, "--series " + series_id + ": an id is of a-z 0-9 . _ - and begins with a letter or a digit; write " + id_of(series_id));
  // What is there already is known by what it says, whatever its file was called then.
  std::map<std::string, std::int64_t> known;
  if (fs::exists(paths.registry())) {
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    registry::Registry::RunFilter filter;
    filter.series = series_id;
    for (const registry::RunRow& row : registry.runs(filter)) {
      const json origin = json::parse(row.run_json).value("origin", json::object());
      if (origin.value("kind", "") == "verl") known.emplace(origin.value("content", ""), row.number);
    }
  }
  std::vector<ImportedRun> runs;
  std::vector<VerlImported> told;
  std::set<std::string> ids;
  for (const std::string& file : options.files) {
    std::error_code none;
    if (!fs::is_regular_file(file, none)) throw UserError(kRefused, file + ": there is no such file; give verl's console log");
    if (fs::file_size(file) > kLargestLog) throw UserError(kRefused, file + ": is larger than 1 GiB; cut it into its runs");
    const std::string text = support::read_file(file), sha256 = support::sha256_hex(text);
    console::VerlLog log;
    log.text(text);
    if (log.runs().empty()) throw UserError(kRefused, file + ": holds no line such as `step:1 - actor/pg_loss:0.1 - …`; give verl's console log (trainer.logger with \"console\")");
    std::vector<std::size_t> lines = {0};   // where each line begins
    for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) lines.push_back(at + 1);
    const auto begin_of = [&](std::int64_t line) {
      return line - 1 < static_cast<std::int64_t>(lines.size()) ? lines[static_cast<std::size_t>(line - 1)] : text.size();
    };
    // Of the lines between two runs: the last that still is of the first of them. All after its closing line, or after
    // the error it ended with, is how the second one begins.
    const auto boundary = [&](std::int64_t last, std::int64_t first) {
      std::int64_t ends = last;
      bool in_traceback = false;
      for (std::int64_t line = last + 1; line < first; ++line) {
        const std::size_t at = begin_of(line);
        const std::string words = plain(std::string_view(text).substr(at, std::min<std::size_t>(begin_of(line + 1) - at, 1 << 16)));
        if (words.find("Final validation metrics") != std::string::npos) ends = line;
        if (words.rfind("Traceback (most recent call last)", 0) == 0) in_traceback = true;
        else if (in_traceback && !words.empty() && words[0] != ' ') in_traceback = false, ends = line;
      }
      return ends;
    };
    for (std::size_t i = 0; i < log.runs().size(); ++i) {
      const console::VerlLog::Run& run = log.runs()[i];
      // What stands around the step lines belongs to this run, unless another one's lines are mixed with them.
      std::int64_t from = 1, to = log.lines();
      bool mixed = false;
      for (std::size_t j = 0; j < log.runs().size(); ++j) {
        const console::VerlLog::Run& other = log.runs()[j];
        if (j == i) continue;
        mixed |= other.first_line <= run.last_line && run.first_line <= other.last_line;
        if (other.last_line < run.first_line) from = std::max(from, boundary(other.last_line, run.first_line) + 1);
        if (other.first_line > run.last_line) to = std::min(to, boundary(run.last_line, other.first_line));
      }
      const std::size_t begin = begin_of(from), end = begin_of(to + 1);
      VerlFacts facts = verl_facts(std::string_view(text).substr(begin, end - begin));
      if (mixed) facts.config = nullptr, facts.overrides.clear(), facts.error.clear(), facts.said_it_ended = false;
      if (facts.first_time == 0) facts.first_time = time_in_name(fs::path(file).filename().string());

      VerlImported one;
      one.file = file;
      one.run = options.run.empty() ? id_of(file) : options.run;
      for (int n = 2; !ids.insert(one.run).second; ++n) one.run = (options.run.empty() ? id_of(file) : options.run) + "-" + std::to_string(n);
      one.first_line = run.first_line;
      one.last_line = run.last_line;
      one.steps = static_cast<std::int64_t>(run.steps.size());
      one.state = verl_state(run, facts);
      std::string key;
      const auto accuracy = accuracies(run, key);
      std::int64_t problems = options.problems;
      if (problems == 0 && key.find("gsm8k") != std::string::npos && !counts_of(accuracy, kGsm8kProblems).empty()) problems = kGsm8kProblems;
      const auto counts = problems > 0 ? counts_of(accuracy, problems) : std::map<std::int64_t, std::int64_t>{};
      if (options.problems > 0 && counts.empty() && !accuracy.empty())
        throw UserError(kRefused, "--problems " + std::to_string(problems) + ": the accuracies in " + file + " are no shares of so many; leave it away, or give the right number");
      if (facts.config.is_null() && facts.overrides.empty() && !like) one.missing.emplace_back("config");
      if (!like) one.missing.emplace_back("quantization");
      if (facts.first_time == 0) one.missing.emplace_back("dates");
      if (facts.commit.empty()) one.missing.emplace_back("commit");
      if (facts.planned_steps < 0) one.missing.emplace_back("planned steps");
      if (accuracy.empty()) one.missing.emplace_back("accuracies");
      else if (counts.empty()) one.missing.emplace_back("number of test problems");
      if (run.unreadable > 0) one.missing.push_back(std::to_string(run.unreadable) + " values that are no numbers");
      one.missing.insert(one.missing.end(), {"outcomes of single problems", "quantization of the evaluation", "environment", "inputs"});

      ImportedRun imported;
      spec::Config config;
      spec::Derived derived;
      if (like) config = like->runs.front().config, derived = like->runs.front().derived;
      config.train.steps = std::max<std::int64_t>({1, facts.planned_steps, run.steps.empty() ? 1 : run.steps.rbegin()->first});
      if (!like) config.trainer.kind = "command", config.trainer.argv = {"verl"};
      imported.run.series = series_id;
      imported.run.run = one.run;
      imported.run.seed = config.train.seed;
      imported.run.config_json = spec::canonical_json(config);
      imported.run.config_sha256 = spec::config_hash(config);
      imported.run.derived_json = spec::derived_json(derived);
      imported.run.run_json = json{{"series", series_id}, {"run", one.run}, {"seed", config.train.seed}, {"title", fs::path(file).filename().string()},
                                   {"hypothesis", ""}, {"change", ""}, {"changed", json::object()}, {"baseline", ""}, {"baseline_series", ""},
                                   {"published", {{"first", nullptr}, {"last", nullptr}}}, {"labels", json::object()},
                                   {"missing", one.missing}, {"worker", run.worker},
                                   {"verl", {{"config", facts.config}, {"overrides", facts.overrides}}},
                                   {"lines", {run.first_line, run.last_line}}}
                                  .dump(-1, ' ', false, json::error_handler_t::replace);
      imported.run.code_json = json{{"user", facts.commit.empty() ? json(nullptr) : json{{"root", ""}, {"commit", facts.commit}, {"branch", nullptr}, {"bare", false}, {"dirty", false}, {"untracked", 0}}}, {"assay", nullptr}}.dump();
      imported.run.environment_json = "{}";
      imported.run.inputs_json = json{{"files", json::array()}}.dump();
      imported.origin = {"verl", fs::path(file).filename().string(), sha256, content_of(run)};
      imported.files.push_back({"verl.log", text.substr(begin, end - begin)});
      for (const auto& [step, values] : run.steps)
        for (const auto& [name, value] : values) imported.metrics[step][name] = value;
      imported.metrics_time = facts.last_time > 0 ? facts.last_time : facts.first_time;
      for (const auto& [step, count] : counts) imported.evaluations.push_back({step, problems, count, "unknown", "unknown", ""});
      imported.state = one.state;
      imported.started = facts.first_time;
      imported.ended = std::max(facts.last_time, facts.first_time);
      if (const auto there = known.find(imported.origin.content); there != known.end()) {
        one.number = there->second;   // negative: given twice in this very command
        one.present = true;
      } else {
        one.number = -static_cast<std::int64_t>(runs.size()) - 1;   // its place in `runs`, until it has a number
        known.emplace(imported.origin.content, one.number);
        runs.push_back(std::move(imported));
      }
      told.push_back(std::move(one));
    }
  }
  registry::SeriesRow series = {series_id, "Imported from verl's logs", "", ""};
  if (fs::exists(paths.registry()))
    if (const auto recorded_series = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only).series(series_id)) series = *recorded_series;
  if (series.json.empty())
    series.json = json{{"id", series.id}, {"title", series.title}, {"goal", ""}, {"notes", ""}, {"dates", json::array()}, {"next_steps", json::array()},
                       {"success_accuracy", 50.0}, {"cause_margin", 0.10}, {"causes", json::array()}, {"runs", json::array()}}.dump(2);
  if (runs.empty()) return told;
  const ImportResult result = import_runs(paths, series, {}, runs);
  for (VerlImported& one : told)
    if (one.number < 0) one.number = result.added.at(static_cast<std::size_t>(-one.number - 1));
  return told;
}

}  // namespace assay::runner

#include "runner/ingest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "runner/process.h"
#include "support/fault_point.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kPiece = 1 << 20;     // bytes read at once; also the longest line taken
constexpr int kPiecesAtOnce = 16;            // of one file, before other runs have their turn
constexpr std::size_t kLongestKind = 100, kLongestData = 64 << 10;   // bytes, of an event
constexpr std::int64_t kLargestEvaluation = 256 << 20;
constexpr int kDeepest = 64;                 // nesting of JSON that is taken
constexpr int kBadLinesTold = 20;            // per file; a log that is all rubbish must not fill the registry
constexpr std::size_t kLongestMessage = 2000;
constexpr std::int64_t kLargestDocument = 64 << 20;

std::string bounded(std::string text, std::size_t limit) {
  if (text.size() > limit) text = text.substr(0, limit) + "…";
  return text;
}

// What a line that was cut off is: no whole JSON.
struct Torn : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Writing JSON out again goes as deep as it is nested, and a hostile line can be nested a million times.
json parse_bounded(const std::string& text) {
  return json::parse(text, [](int depth, json::parse_event_t, json&) {
    if (depth > kDeepest) throw std::invalid_argument("it is nested too deeply");
    return true;
  });
}

// That many bytes of a file from `offset` on, as far as they are there.
std::string read_piece(const fs::path& file, std::int64_t offset, std::int64_t size) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) throw std::runtime_error(file.string() + ": " + std::strerror(errno));
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t n = ::pread(fd.get(), bytes.data() + filled, bytes.size() - filled,
                              static_cast<off_t>(offset + static_cast<std::int64_t>(filled)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw std::runtime_error(file.string() + ": " + std::strerror(errno));
    if (n == 0) break;
    filled += static_cast<std::size_t>(n);
  }
  bytes.resize(filled);
  return bytes;
}

std::int64_t size_of(const fs::path& file) {
  struct stat status {};
  return ::stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode) ? static_cast<std::int64_t>(status.st_size) : -1;
}

}  // namespace

Ingest::Ingest(registry::Registry& registry, std::int64_t run, fs::path folder, std::int64_t planned_steps)
    : registry_(registry), run_(run), folder_(std::move(folder)), planned_steps_(planned_steps) {
  forget();
}

void Ingest::forget() {
  offsets_.clear();
  keys_.clear();
  progress_ = registry_.progress(run_);
  if (progress_.total_steps < 0) progress_.total_steps = planned_steps_;
  finished_ = false;
  for (const registry::Event& event : registry_.events(run_)) {
    if (event.kind == "finished") finished_ = true;
    if (event.kind == "finding") finding_ = event.message;
  }
  evaluations_seen_ = {};
  unread_ = true;
}

bool Ingest::anything_new() {
  whole_ = unread_ || ++looks_ % 10 == 0;
  if (whole_) return true;
  for (const char* file : {"metrics.jsonl", "events.jsonl"})
    if (const auto found = offsets_.find(file); found == offsets_.end() || size_of(folder_ / file) > found->second) return true;
  return false;
}

bool Ingest::poll() { return poll_all(false); }

bool Ingest::finish() { return poll_all(true); }

bool Ingest::poll_all(bool last) {
  bool changed = false;
  try {
    registry_.batch([&] {  // one durable write for all that is new
      const bool whole = std::exchange(whole_, true) || last;
      if (whole) {
        changed |= poll_document("quant-report.json", "quant-report");
        changed |= poll_document("doctor.json", "doctor");
      }
      unread_ = false;
      changed |= poll_lines("metrics.jsonl", last);
      changed |= poll_lines("events.jsonl", last);
      if (whole) changed |= poll_evaluations(last);
    });
  } catch (...) {
    forget();  // rolled back: what is kept here must not run ahead of the registry
    throw;
  }
  return changed;
}

std::int64_t& Ingest::offset(const std::string& file) {
  const auto found = offsets_.find(file);
  if (found != offsets_.end()) return found->second;
  return offsets_[file] = registry_.ingested_bytes(run_, file);
}

bool Ingest::poll_lines(const std::string& file, bool last) {
  const fs::path path = folder_ / file;
  bool changed = false;
  for (int pieces = 0;; ++pieces) {
    std::int64_t& at = offset(file);
    const std::int64_t there = size_of(path);
    if (there <= at) return changed;
    if (pieces == kPiecesAtOnce && !last) {  // others want their turn, too
      unread_ = true;
      return changed;
    }
    // No more than there is: a line of a live run is a hundred bytes, and a megabyte of zeros is not made for free.
    const std::string piece = read_piece(path, at, std::min(kPiece, there - at));
    const std::int64_t begin = at;
    std::size_t used = 0;
    const auto take = [&](std::string_view line, bool may_be_torn) {
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
      try {
        if (file == "events.jsonl") take_event(std::string(line));
        else take_metrics(line);
      } catch (const json::exception& error) {
        if (!may_be_torn) bad_line(file, begin + static_cast<std::int64_t>(used), error.what());
      } catch (const std::invalid_argument& error) {
        bad_line(file, begin + static_cast<std::int64_t>(used), error.what());
      } catch (const Torn& error) {
        if (!may_be_torn) bad_line(file, begin + static_cast<std::int64_t>(used), error.what());
      }
    };
    for (std::size_t end; (end = piece.find('\n', used)) != std::string::npos; used = end + 1)
      take(std::string_view(piece).substr(used, end - used), false);
    if (used == 0 && static_cast<std::int64_t>(piece.size()) == kPiece) {
      bad_line(file, begin, "the line is longer than " + std::to_string(kPiece) + " bytes");
      used = piece.size();  // the rest of it will be told of as well, or pass as a line of its own
    } else if (last && used < piece.size() && begin + static_cast<std::int64_t>(piece.size()) >= size_of(path)) {
      take(std::string_view(piece).substr(used), true);
      used = piece.size();
    }
    if (used == 0) return changed;
    registry_.put_progress(run_, progress_);
    support::fault_point("ingest: piece taken in");
    registry_.set_ingested_bytes(run_, file, begin + static_cast<std::int64_t>(used));
    at = begin + static_cast<std::int64_t>(used);
    changed = true;
    if (!last && begin + static_cast<std::int64_t>(piece.size()) == there && there - begin < kPiece) return changed;
  }
}

// The lines of a run mostly hold the same metrics in the same order: their numbers are found by position.
std::int64_t Ingest::key_number(std::size_t position, const std::string& name) {
  if (position < keys_.size() && keys_[position].first == name) return keys_[position].second;
  if (position >= keys_.size()) keys_.resize(position + 1);
  keys_[position] = {name, registry_.metric_key(name)};
  return keys_[position].second;
}

void Ingest::take_metrics(std::string_view line) {
  bool torn = false;
  if (const std::string why = read_metrics_line(line, line_, torn); !why.empty()) {
    if (torn) throw Torn(why);
    throw std::invalid_argument(why);
  }
  values_.clear();
  for (std::size_t i = 0; i < line_.count; ++i) {
    const auto& [key, value] = line_.values[i];
    values_.emplace_back(key_number(i, key), value);
    if (key == "critic/score/mean") progress_.score = value;
    if (key.rfind("val-core/", 0) == 0) progress_.accuracy = value;
  }
  progress_.step = std::max(progress_.step, line_.step);
  progress_.last_time = line_.time ? *line_.time : unix_now();
  if (!values_.empty()) registry_.put_metric_line(run_, line_.step, values_);
}

void Ingest::take_event(const std::string& line) {
  const json object = parse_bounded(line);
  registry::Event event;
  event.run = run_;
  event.kind = bounded(object.at("kind").get<std::string>(), kLongestKind);
  event.time = object.value("time", 0.0);
  event.step = object.value("step", std::int64_t{-1});
  event.message = bounded(object.value("message", ""), kLongestMessage);
  const json data = object.value("data", json::object());
  event.data_json = data.dump(-1, ' ', false, json::error_handler_t::replace);
  if (event.data_json.size() > kLongestData) throw std::invalid_argument("\"data\" is longer than 64 KiB");
  if (event.kind == "started" && data.contains("total_steps") && data.at("total_steps").is_number_integer())
    progress_.total_steps = data.at("total_steps").get<std::int64_t>();
  registry_.put_event(event);
  if (event.kind == "finished") finished_ = true;
  if (event.kind == "finding") finding_ = event.message;
}

void Ingest::bad_line(const std::string& file, std::int64_t at, const std::string& why) {
  int& told = bad_lines_[file];
  if (told > kBadLinesTold) return;
  ++told;
  registry::Event event;
  event.run = run_;
  event.time = progress_.last_time;  // not the clock: told again after a crash, it must be the same event
  event.step = progress_.step;
  event.kind = "bad_line";
  event.message = told > kBadLinesTold ? file + ": further bad lines are not told of"
                                       : bounded(file + ", byte " + std::to_string(at) + ": " + why, kLongestMessage);
  event.data_json = json{{"file", file}, {"byte", at}}.dump();
  registry_.put_event(event);
}

bool Ingest::poll_document(const std::string& file, const std::string& kind) {
  const fs::path path = folder_ / file;
  const std::int64_t size = size_of(path);
  if (size < 0 || offset(file) == size) return false;
  std::string why;
  if (size > kLargestDocument) {
    why = "is larger than 64 MiB";
  } else {
    const std::string text = support::read_file(path);
    if (json::accept(text)) registry_.put_document(run_, kind, text);
    else why = "is no JSON (yet)";
  }
  // Written without a rename by another trainer, it may be half there: it is looked at again when it has grown.
  if (!why.empty()) bad_line(file, size, why);
  registry_.set_ingested_bytes(run_, file, size);
  offset(file) = size;
  return why.empty();
}

bool Ingest::poll_evaluations(bool last) {
  const fs::path folder = folder_ / "eval";
  std::error_code error;
  const auto changed_at = fs::last_write_time(folder, error);
  if (error || (changed_at == evaluations_seen_ && !last)) return false;
  bool changed = false;
  std::set<fs::path> summaries;  // in the order of their steps: the last one's accuracy is the one shown
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".json") summaries.insert(entry.path());
  for (const fs::path& summary : summaries) {
    const std::string file = "eval/" + summary.filename().string();
    const std::int64_t size = size_of(summary);
    if (offset(file) == size) continue;
    try {
      take_evaluation(summary);
    } catch (const json::exception& why) {
      bad_line(file, 0, why.what());
    } catch (const std::invalid_argument& why) {
      bad_line(file, 0, why.what());
    }
    registry_.set_ingested_bytes(run_, file, size);
    offset(file) = size;
    changed = true;
  }
  // A folder's time is coarse: one that has just changed may change again without showing it.
  if (fs::file_time_type::clock::now() - changed_at > std::chrono::seconds(1)) evaluations_seen_ = changed_at;
  return changed;
}

void Ingest::take_evaluation(const fs::path& summary) {
  if (size_of(summary) > kLargestDocument) throw std::invalid_argument("it is larger than 64 MiB");
  const json object = json::parse(support::read_file(summary));
  registry::Evaluation evaluation;
  evaluation.step = object.at("step").get<std::int64_t>();
  evaluation.problems = object.at("problems").get<std::int64_t>();
  evaluation.correct = object.at("correct").get<std::int64_t>();
  evaluation.format_right = object.value("format_right", std::int64_t{0});
  evaluation.arithmetic_right = object.value("arithmetic_right", std::int64_t{0});
  evaluation.quant = object.value("quant", "");
  evaluation.trained_quant = object.value("trained_quant", "");
  evaluation.data_sha256 = object.value("data_sha256", "");

  fs::path problems = summary;
  problems.replace_extension(".jsonl");
  if (fs::exists(problems)) {
    if (size_of(problems) > kLargestEvaluation)
      throw std::invalid_argument("the file of outcomes beside it is larger than 256 MiB");
    const std::string text = support::read_file(problems);
    for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
      end = std::min(text.find('\n', begin), text.size());
      const std::string line = text.substr(begin, end - begin);
      if (line.empty()) continue;
      const json row = json::parse(line);
      registry::Outcome outcome;
      outcome.index = row.at("index").get<std::int64_t>();
      outcome.outcome = row.at("outcome").get<std::string>();
      outcome.correct = outcome.outcome == "correct";
      outcome.format_right = row.value("format_right", false);
      outcome.arithmetic_right = row.value("arithmetic_right", false);
      evaluation.outcomes.push_back(std::move(outcome));
    }
    if (static_cast<std::int64_t>(evaluation.outcomes.size()) != evaluation.problems)
      throw std::invalid_argument("it counts " + std::to_string(evaluation.problems) + " problems, and the file of "
                                  "outcomes beside it holds " + std::to_string(evaluation.outcomes.size()));
  }
  registry_.put_evaluation(run_, evaluation);
  if (evaluation.problems > 0) {
    progress_.accuracy = static_cast<double>(evaluation.correct) / static_cast<double>(evaluation.problems);
    registry_.put_progress(run_, progress_);
  }
}

}  // namespace assay::runner

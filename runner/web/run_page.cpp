// One run: what it is, what it measured, what it wrote.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "runner/process.h"
#include "runner/web/site.h"
#include "support/files.h"

namespace assay::runner::web {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kLogPiece = 256 << 10;       // bytes of a log sent at once
constexpr std::int64_t kLargestSamples = 256 << 20;

json parsed(const std::string& text) {
  json document = json::parse(text, nullptr, false);
  return document.is_discarded() ? json(nullptr) : document;
}

json evaluation_json(const registry::Evaluation& row) {
  return {{"step", row.step},
          {"problems", row.problems},
          {"correct", row.correct},
          {"format_right", row.format_right},
          {"arithmetic_right", row.arithmetic_right},
          {"quant", row.quant},
          {"trained_quant", row.trained_quant}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

}  // namespace

std::string read_text(const fs::path& file, std::int64_t from, std::int64_t most, std::int64_t& size) {
  size = 0;
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  size = status.st_size;
  std::string bytes(static_cast<std::size_t>(std::clamp<std::int64_t>(size - from, 0, most)), '\0');
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t n = ::pread(fd.get(), bytes.data() + filled, bytes.size() - filled,
                              static_cast<off_t>(from + static_cast<std::int64_t>(filled)));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    filled += static_cast<std::size_t>(n);
  }
  bytes.resize(filled);
  // The lead byte of a character says how many follow; one that lacks some waits for them.
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, bytes.size()); ++back) {
    const auto byte = static_cast<unsigned char>(bytes[bytes.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const std::size_t needs = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    if (needs > back && bytes.size() > back) bytes.resize(bytes.size() - back);
    break;
  }
  return bytes;
}

json Site::run(std::int64_t number) {
  const Lease registry = open();
  const auto found = registry->run(number);
  if (!found) throw Refusal{404, "there is no run " + std::to_string(number) + " in this registry"};
  json object = row(*registry, *found, live_.daemon());
  const json document = parsed(found->run_json);
  for (const char* key : {"hypothesis", "change", "changed", "baseline", "published", "labels"})
    object[key] = document.is_object() && document.contains(key) ? document.at(key) : json(nullptr);
  object["config"] = parsed(found->config_json);
  object["config_sha256"] = found->config_sha256;
  if (const auto facts = registry->facts(number)) {
    object["code"] = parsed(facts->code_json);
    object["environment"] = parsed(facts->environment_json);
  }
  // The run its curves are drawn against: the latest of the baseline's id, the same seed before others.
  if (const std::string baseline = document.is_object() ? document.value("baseline", "") : ""; !baseline.empty()) {
    registry::Registry::RunFilter filter;
    filter.run = baseline;
    filter.texts = false;
    const std::string series = document.value("baseline_series", "");
    filter.series = series.empty() ? found->series : series;
    std::vector<registry::RunRow> rows = registry->runs(filter);
    std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
      return std::pair(a.seed == found->seed, a.number) > std::pair(b.seed == found->seed, b.number);
    });
    if (!rows.empty()) object["baseline_number"] = rows.front().number;
  }
  json evaluations = json::array(), events = json::array(), attempts = json::array();
  for (const registry::Evaluation& evaluation : registry->evaluations(number, false))
    evaluations.push_back(evaluation_json(evaluation));
  for (const registry::Event& event : registry->events(number))
    events.push_back({{"time", event.time}, {"step", event.step}, {"kind", event.kind}, {"message", event.message}});
  for (const registry::Attempt& attempt : registry->attempts(number))
    attempts.push_back({{"attempt", attempt.attempt}, {"state", registry::name(attempt.state.kind)},
                        {"started", attempt.started}, {"ended", attempt.ended}, {"detail", attempt.state.detail}});
  // What people said of it, the newest version of each.
  json records = json::array();
  for (const registry::Record& record : registry->records_of_run(number))
    if (record.newest && !record.withdrawn)
      records.push_back({{"kind", record.kind}, {"subject", record.subject}, {"text", record.text}, {"author", record.author}, {"time", record.time}});
  object["records"] = std::move(records);
  object["evaluations"] = std::move(evaluations);
  object["events"] = std::move(events);
  object["attempts"] = std::move(attempts);
  const auto doctor = registry->document(number, "doctor");
  object["doctor"] = doctor ? parsed(*doctor) : json(nullptr);
  return object;
}

json Site::metrics(const Request& request, const std::vector<std::int64_t>& numbers) {
  const std::vector<std::string> keys = request.parameters("key");
  const std::int64_t from = number_parameter(request, "from", 0, INT64_MAX);
  const Lease registry = open();
  json all = json::array();
  for (const std::int64_t number : numbers) {
    std::vector<registry::MetricPoint> points = registry->metrics_since(number, from);
    if (!keys.empty())
      std::erase_if(points, [&](const registry::MetricPoint& point) {
        return std::find(keys.begin(), keys.end(), point.key) == keys.end();
      });
    json object = columns(points);
    object["run"] = number;
    json accuracies = json::array();
    for (const registry::Evaluation& evaluation : registry->evaluations(number, false))
      accuracies.push_back(evaluation_json(evaluation));
    object["evaluations"] = std::move(accuracies);
    all.push_back(std::move(object));
  }
  return all;
}

json Site::log(std::int64_t number, const Request& request) {
  const std::string name = request.parameter("name", "stdout");
  if (name != "stdout" && name != "stderr") throw Refusal{400, "name: a log is stdout or stderr, not '" + name + "'"};
  const Lease registry = open();
  const auto found = registry->run(number);
  if (!found) throw Refusal{404, "there is no run " + std::to_string(number) + " in this registry"};
  const fs::path file = fs::path(found->folder) / (name + ".log");
  std::int64_t size = 0;
  read_text(file, 0, 0, size);
  const std::int64_t from =
      request.parameter("from").empty() ? std::max<std::int64_t>(0, size - kLogPiece) : number_parameter(request, "from", 0, size);
  const std::string text = read_text(file, from, kLogPiece, size);
  return {{"name", name}, {"from", from}, {"to", from + static_cast<std::int64_t>(text.size())}, {"size", size}, {"text", text}};
}

json Site::evaluation(std::int64_t number, std::int64_t step, const Request& request) {
  const std::string wanted = request.parameter("outcome");
  const std::int64_t offset = number_parameter(request, "offset", 0, INT64_MAX), limit = number_parameter(request, "limit", 20, 200);
  const Lease registry = open();
  const auto found = registry->run(number);
  if (!found) throw Refusal{404, "there is no run " + std::to_string(number) + " in this registry"};
  const std::vector<registry::Evaluation> rows = registry->evaluations(number, false);
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& each) { return each.step == step; });
  if (row == rows.end())
    throw Refusal{404, "run " + std::to_string(number) + " has no evaluation at step " + std::to_string(step)};
  char name[64];
  std::snprintf(name, sizeof name, "step-%06lld.jsonl", static_cast<long long>(step));
  const fs::path file = fs::path(found->folder) / "eval" / name;
  json object = evaluation_json(*row);
  std::error_code none;
  const auto size = fs::file_size(file, none);
  if (none) {
    object["missing"] = "the answers are not in the run's folder (" + file.string() + ")";
    return object;
  }
  if (size > static_cast<std::uintmax_t>(kLargestSamples)) {
    object["missing"] = "the answers take " + std::to_string(size >> 20) + " MiB, too much to show; they are in " + file.string();
    return object;
  }
  // The questions stand in the test file, if it still is the one that was measured on.
  std::vector<std::string> questions;
  const json derived = parsed(found->derived_json);
  const std::string test = derived.is_object() ? derived.value("test_path", "") : "";
  if (!test.empty() && fs::exists(test, none)) {
    const std::string text = support::read_file(test);
    if (support::sha256_hex(text) == row->data_sha256) questions = lines_of(text);
    else object["questions"] = "the test file has changed since: " + test;
  }
  json samples = json::array();
  std::map<std::string, std::int64_t> counts;
  std::int64_t seen = 0;
  for (const std::string& line : lines_of(support::read_file(file))) {
    const json sample = parsed(line);
    if (!sample.is_object()) continue;
    const std::string outcome = sample.value("outcome", "");
    ++counts[outcome];
    if (!wanted.empty() && outcome != wanted && !(wanted == "not_correct" && outcome != "correct")) continue;
    if (seen++ < offset || std::ssize(samples) >= limit) continue;
    json shown = sample;
    const auto index = sample.value("index", std::int64_t{-1});
    if (index >= 0 && index < std::ssize(questions)) {
      const json problem = parsed(questions[static_cast<std::size_t>(index)]);
      if (problem.is_object()) {
        shown["question"] = problem.value("question", "");
        shown["expected"] = problem.value("answer", "");
      }
    }
    samples.push_back(std::move(shown));
  }
  object["counts"] = counts;
  object["total"] = seen;
  object["offset"] = offset;
  object["samples"] = std::move(samples);
  return object;
}

}  // namespace assay::runner::web

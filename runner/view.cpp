#include "runner/view.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runner/protocol.h"

namespace assay::runner {

using nlohmann::json;
using registry::Progress;
using registry::RunRow;
using registry::StateKind;

namespace {

template <typename T>
json maybe(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

json time_or_null(double unix_seconds) { return unix_seconds > 0 ? json(unix_seconds) : json(nullptr); }

}  // namespace

json run_json(const RunRow& row, const Progress& progress, const std::optional<std::string>& waits_for) {
  return {{"number", row.number},
          {"series", row.series},
          {"run", row.run},
          {"seed", row.seed},
          {"batch", row.batch},
          {"state", registry::name(row.state.kind)},
          {"detail", row.state.detail},
          {"exit_code", maybe(row.state.exit_code)},
          {"signal", maybe(row.state.signal)},
          {"waits_for", maybe(waits_for)},
          {"priority", row.priority},
          {"group", row.group},
          {"after", row.after},
          {"after_any", row.after_any},
          {"paused", row.held},
          {"hidden", row.hidden},
          {"fault", row.state.fault},
          {"attempt", row.attempt},
          {"step", progress.step >= 0 ? json(progress.step) : json(nullptr)},
          {"total_steps", progress.total_steps >= 0 ? json(progress.total_steps) : json(nullptr)},
          {"score", maybe(progress.score)},
          {"accuracy", maybe(progress.accuracy)},
          {"created", time_or_null(row.created)},
          {"started", time_or_null(row.started)},
          {"ended", time_or_null(row.ended)},
          {"folder", row.folder}};
}

std::string label(const std::string& run, std::int64_t seed) { return run + " s" + std::to_string(seed); }
std::string label(const RunRow& row) { return label(row.run, row.seed); }

std::string added(bool as_json, const std::vector<std::int64_t>& numbers, const std::vector<std::string>& labels) {
  if (as_json) return dump({{"numbers", numbers}}) + "\n";
  std::string text;
  for (std::size_t i = 0; i < numbers.size(); ++i) text += std::to_string(numbers[i]) + " " + labels[i] + "\n";
  return text;
}

std::string state_text(const registry::State& state) {
  std::string text = registry::name(state.kind);
  // A fault of the machine must not look like one of the code.
  std::string how = state.kind == StateKind::failed && state.fault == "infrastructure" ? "infrastructure" : "";
  if (state.kind == StateKind::failed && (state.signal || state.exit_code))
    how += (how.empty() ? "" : ", ") +
           (state.signal ? "signal " + std::to_string(*state.signal) : "exit code " + std::to_string(*state.exit_code));
  if (!how.empty()) text += " (" + how + ")";
  if (state.detail.empty()) return text;
  if (state.kind == StateKind::killed) return text + " by " + state.detail;
  if (state.kind == StateKind::blocked) return text + " by " + state.detail;
  return text + ": " + state.detail;
}

std::string percent(const std::optional<double>& share) {
  if (!share || !std::isfinite(*share)) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", *share * 100);
  return text;
}

bool other_quant(const std::vector<registry::Evaluation>& evaluations) {
  return !evaluations.empty() && evaluations.back().quant != evaluations.back().trained_quant;
}

std::string accuracy_text(const Progress& progress, const std::vector<registry::Evaluation>& evaluations) {
  return percent(progress.accuracy) + (progress.accuracy && other_quant(evaluations) ? "‡" : "");
}

const char* const kOtherQuantNote =
    "‡ measured under another quantization than the run is trained under, or under one that is not known\n";

std::string duration(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  char text[64];
  if (whole < 60) std::snprintf(text, sizeof text, "%lld s", whole);
  else if (whole < 3600) std::snprintf(text, sizeof text, "%lld min %02lld s", whole / 60, whole % 60);
  else std::snprintf(text, sizeof text, "%lld h %02lld min", whole / 3600, whole / 60 % 60);
  return text;
}

std::optional<double> time_left(const RunRow& row, const Progress& progress, double now) {
  if (progress.step <= 0 || progress.total_steps <= 0 || row.started <= 0) return std::nullopt;
  if (progress.step >= progress.total_steps) return 0.0;
  const double per_step = (progress.last_time - row.started) / static_cast<double>(progress.step);
  if (!(per_step > 0)) return std::nullopt;
  const double left = per_step * static_cast<double>(progress.total_steps - progress.step) - (now - progress.last_time);
  return std::max(0.0, left);
}

std::size_t characters(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string cut(const std::string& text, std::size_t limit) {
  if (characters(text) <= limit) return text;
  std::size_t bytes = 0, seen = 0;
  for (; bytes < text.size(); ++bytes)
    if ((static_cast<unsigned char>(text[bytes]) & 0xc0) != 0x80 && seen++ == (limit > 0 ? limit - 1 : 0)) break;
  return text.substr(0, bytes) + (limit > 0 ? "…" : "");
}

std::string text_table(const std::vector<std::vector<std::string>>& rows, const std::vector<std::size_t>& right) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], characters(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - characters(row[i]), ' ');
      const bool to_right = std::find(right.begin(), right.end(), i) != right.end();
      if (i > 0) line += "  ";
      line += to_right ? padding + row[i] : row[i] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

bool use_color(Color color, int fd) {
  if (color != Color::automatic) return color == Color::always;
  const char* no_color = std::getenv("NO_COLOR");
  return ::isatty(fd) == 1 && (no_color == nullptr || *no_color == '\0');
}

}  // namespace assay::runner

#include "runner/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <set>

#include "runner/errors.h"
#include "runner/protocol.h"

namespace assay::runner {
namespace {

using registry::Registry;
using registry::StateKind;

volatile std::sig_atomic_t interrupted = 0;

// Ctrl-C asks follow() to stop following, for as long as this lives.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    ::sigaction(SIGINT, &action, &before_);  // without SA_RESTART: poll() must come back
  }
  ~InterruptGuard() { ::sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ {};
};

std::string steps_text(const registry::Progress& progress) {
  if (progress.step < 0) return "-";
  return std::to_string(progress.step) +
         (progress.total_steps > 0 ? "/" + std::to_string(progress.total_steps) : std::string());
}

std::string score_text(const registry::Progress& progress) {
  if (!progress.score) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", *progress.score);
  return text;
}

class TerminalView : public ProgressView {
 public:
  TerminalView(std::FILE* out, bool color) : out_(out), color_(color) {}

  void update(const std::vector<Watched>& runs, double now) override {
    winsize size{};
    if (::ioctl(::fileno(out_), TIOCGWINSZ, &size) != 0 || size.ws_row == 0) size = {24, 80, 0, 0};
    const std::size_t height = std::max<std::size_t>(3, size.ws_row) - 1;
    const std::size_t width = std::max<std::size_t>(20, size.ws_col) - 1;

    std::vector<const Watched*> shown;
    std::map<std::string, int> hidden;
    const bool all = runs.size() + 1 <= height;
    for (const Watched& run : runs) {
      const StateKind kind = run.row.state.kind;
      const bool live = kind == StateKind::starting || kind == StateKind::running;
      if (all || (live && shown.size() + 2 < height)) shown.push_back(&run);
      else ++hidden[registry::name(kind)];
    }
    std::vector<std::vector<std::string>> rows{{"run", "", "state", "step", "score", "accuracy", "left"}};
    for (const Watched* run : shown) {
      const bool running = run->row.state.kind == StateKind::running;
      const auto left = running ? time_left(run->row, run->progress, now) : std::nullopt;
      const bool ended = registry::is_final(run->row.state.kind);
      rows.push_back({std::to_string(run->row.number), label(run->row),
                      cut(ended && run->row.state.kind != StateKind::succeeded ? state_text(run->row.state)
                                                                               : registry::name(run->row.state.kind),
                          44),
                      steps_text(run->progress), score_text(run->progress), accuracy_text(run->progress, run->evaluations),
                      ended && run->row.started > 0 ? "took " + duration(run->row.ended - run->row.started)
                      : left                        ? duration(*left)
                                                    : "-"});
    }
    std::string text = text_table(rows, {0, 3, 4, 5});
    if (!hidden.empty()) {
      std::string line;
      for (const auto& [state, count] : hidden) line += (line.empty() ? "and " : ", ") + std::to_string(count) + " " + state;
      text += line + "\n";
    }
    draw(text, width, shown);
  }

 private:
  void draw(const std::string& text, std::size_t width, const std::vector<const Watched*>& shown) {
    std::string screen;
    if (lines_ > 0) screen += "\x1b[" + std::to_string(lines_) + "A";
    std::size_t count = 0;
    for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1, ++count) {
      end = text.find('\n', begin);
      std::string line = cut(text.substr(begin, end - begin), width);
      if (color_ && count >= 1 && count <= shown.size()) line = paint(shown[count - 1]->row.state.kind) + line + "\x1b[0m";
      screen += "\x1b[2K" + line + "\n";
    }
    screen += "\x1b[J";  // lines of a longer picture before
    lines_ = count;
    // In one write: line by line it would flicker.
    std::fflush(out_);
    for (std::size_t written = 0; written < screen.size();) {
      const ssize_t n = ::write(::fileno(out_), screen.data() + written, screen.size() - written);
      if (n <= 0) return;  // the terminal has gone; the runs have not
      written += static_cast<std::size_t>(n);
    }
  }

  static std::string paint(StateKind kind) {
    switch (kind) {
      case StateKind::succeeded: return "\x1b[32m";
      case StateKind::running:
      case StateKind::starting: return "\x1b[1m";
      case StateKind::queued:
      case StateKind::blocked: return "\x1b[2m";
      default: return "\x1b[31m";
    }
  }

  std::FILE* out_;
  bool color_;
  std::size_t lines_ = 0;
};

class PlainView : public ProgressView {
 public:
  explicit PlainView(std::FILE* out) : out_(out) {}

  void update(const std::vector<Watched>& runs, double) override {
    for (const Watched& run : runs) {
      Told& told = told_[run.row.number];
      const StateKind kind = run.row.state.kind;
      const std::string name = std::to_string(run.row.number) + " " + label(run.row) + ": ";
      const bool started = run.row.started > 0;
      if (started && !told.started) print(name + "started");
      told.started |= started;
      for (const registry::Evaluation& evaluation : run.evaluations)
        if (told.evaluations.insert({evaluation.step, evaluation.quant}).second && evaluation.problems > 0)
          print(name + "step " + std::to_string(evaluation.step) +
                (run.progress.total_steps > 0 ? " of " + std::to_string(run.progress.total_steps) : "") +
                ", accuracy " +
                percent(static_cast<double>(evaluation.correct) / static_cast<double>(evaluation.problems)) +
                (evaluation.quant == evaluation.trained_quant ? "" : "‡") + " (" + std::to_string(evaluation.correct) + " of " +
                std::to_string(evaluation.problems) +
                (evaluation.quant == evaluation.trained_quant ? "" : ", measured under " + evaluation.quant) + ")");
      if (registry::is_final(kind) && !told.ended) {
        std::string line = name + state_text(run.row.state);
        if (kind == StateKind::succeeded && run.progress.accuracy)
          line += ", accuracy " + accuracy_text(run.progress, run.evaluations);
        if (started) line += ", after " + duration(run.row.ended - run.row.started);
        print(line);
        told.ended = true;
      }
    }
  }

 private:
  void print(const std::string& line) {
    std::fprintf(out_, "%s\n", line.c_str());
    std::fflush(out_);
  }

  struct Told {
    bool started = false, ended = false;
    std::set<std::pair<std::int64_t, std::string>> evaluations;
  };
  std::FILE* out_;
  std::map<std::int64_t, Told> told_;
};

class JsonView : public ProgressView {
 public:
  explicit JsonView(std::FILE* out) : out_(out) {}

  void update(const std::vector<Watched>& runs, double) override {
    for (const Watched& run : runs) {
      std::string line = dump(run_json(run.row, run.progress, std::nullopt));
      std::string& told = told_[run.row.number];
      if (told == line) continue;
      std::fprintf(out_, "%s\n", line.c_str());
      told = std::move(line);
    }
    std::fflush(out_);
  }

 private:
  std::FILE* out_;
  std::map<std::int64_t, std::string> told_;
};

class SilentView : public ProgressView {
 public:
  void update(const std::vector<Watched>&, double) override {}
};

Watched read_run(const Registry& registry, std::int64_t number) {
  Watched run;
  run.row = registry.run(number).value();
  run.progress = registry.progress(number);
  run.evaluations = registry.evaluations(number, false);
  return run;
}

std::string numbers_text(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t number : numbers) text += " " + std::to_string(number);
  return text;
}

}  // namespace

std::unique_ptr<ProgressView> terminal_view(std::FILE* out, bool color) {
  return std::make_unique<TerminalView>(out, color);
}
std::unique_ptr<ProgressView> plain_view(std::FILE* out) { return std::make_unique<PlainView>(out); }
std::unique_ptr<ProgressView> json_view(std::FILE* out) { return std::make_unique<JsonView>(out); }
std::unique_ptr<ProgressView> silent_view() { return std::make_unique<SilentView>(); }
std::unique_ptr<ProgressView> view_for(std::FILE* out, Color color) {
  if (::isatty(::fileno(out)) == 1) return terminal_view(out, use_color(color, ::fileno(out)));
  return plain_view(out);
}

std::vector<Watched> follow(const Paths& paths, Client& client, const std::vector<std::int64_t>& numbers,
                            ProgressView& view) {
  const InterruptGuard guard;
  client.request("watch");  // before the first look, so that nothing falls in between
  const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
  std::vector<Watched> runs;
  std::map<std::int64_t, std::size_t> place;
  for (const std::int64_t number : numbers) {
    place[number] = runs.size();
    runs.push_back(read_run(registry, number));
  }
  for (;;) {
    view.update(runs, unix_now());
    if (std::all_of(runs.begin(), runs.end(), [](const Watched& run) { return registry::is_final(run.row.state.kind); }))
      return runs;
    if (interrupted != 0) {
      std::vector<std::int64_t> left;
      for (const Watched& run : runs)
        if (!registry::is_final(run.row.state.kind)) left.push_back(run.row.number);
      throw UserError(kInterrupted, "follow: interrupted, the runs go on; type `assay follow" + numbers_text(left) +
                                        "` to see them again, `assay kill" + numbers_text(left) + "` to end them");
    }
    const auto changes = client.next_changes(std::chrono::milliseconds(1000));
    if (!changes) {
      // The daemon went away; the runs did not. The next one takes them up.
      client = Client::connect(paths);
      client.request("watch");
      for (Watched& run : runs) run = read_run(registry, run.row.number);
      continue;
    }
    for (const std::int64_t number : *changes)
      if (const auto found = place.find(number); found != place.end()) runs[found->second] = read_run(registry, number);
  }
}

bool all_succeeded(const std::vector<Watched>& runs) {
  return std::all_of(runs.begin(), runs.end(),
                     [](const Watched& run) { return run.row.state.kind == StateKind::succeeded; });
}

}  // namespace assay::runner

// Server-sent events: what changes while somebody looks.
#include <algorithm>
#include <chrono>

#include "runner/protocol.h"
#include "runner/web/site.h"

namespace assay::runner::web {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kPatience{500};           // also how long a stop of the server may take
constexpr std::chrono::seconds kSignOfLife{10};  // so that either side notices when the other is gone
constexpr std::size_t kMostRows = 100;           // of one message; where more have changed the page reads anew
constexpr std::int64_t kStreamPiece = 64 << 10;

std::string event(const std::string& name, const json& data) {
  return "event: " + name + "\ndata: " + dump(data) + "\n\n";   // dump() gives one line
}

Response stream_of(std::function<void(const Send&)> stream) {
  Response response;
  response.type = "text/event-stream";
  response.stream = std::move(stream);
  return response;
}

}  // namespace

Response Site::all_events() {
  return stream_of([this](const Send& send) {
    Live::News news = live_.wait(0, milliseconds(0));
    if (!send("retry: 2000\n\n" + event("daemon", news.daemon))) return;
    auto spoken = Clock::now();
    for (;;) {
      news = live_.wait(news.sequence, kPatience);
      std::string text;
      if (news.daemon_changed) text += event("daemon", news.daemon);
      if (news.runs.size() > kMostRows) {
        text += event("many", {{"changed", news.runs.size()}});
      } else if (!news.runs.empty()) {
        const Lease registry = open();
        json rows = json::array();
        for (const std::int64_t number : news.runs)
          if (const auto found = registry->run(number)) rows.push_back(row(*registry, *found, news.daemon));
        text += event("runs", rows);
      }
      if (text.empty() && Clock::now() - spoken > kSignOfLife) text = ": still here\n\n";
      if (!send(text)) return;
      if (!text.empty()) spoken = Clock::now();
    }
  });
}

Response Site::run_events(std::int64_t number, const Request& request) {
  std::int64_t step = number_parameter(request, "from", 0, INT64_MAX);
  std::map<std::string, std::int64_t> logs;
  for (const char* name : {"stdout", "stderr"})
    if (!request.parameter(name).empty()) logs[name] = number_parameter(request, name, 0, INT64_MAX);
  fs::path folder;
  {
    const Lease registry = open();
    const auto found = registry->run(number);
    if (!found) throw Refusal{404, "there is no run " + std::to_string(number) + " in this registry"};
    folder = found->folder;
  }
  return stream_of([this, number, step, logs, folder](const Send& send) mutable {
    Live::News news = live_.wait(0, milliseconds(0));
    bool changed = true;                         // the first round tells how things stand
    auto spoken = Clock::now();
    if (!send("retry: 2000\n\n" + event("daemon", news.daemon))) return;
    for (;;) {
      std::string text;
      if (news.daemon_changed) text += event("daemon", news.daemon);
      if (changed) {
        const Lease registry = open();
        const auto found = registry->run(number);
        if (!found) return;
        text += event("run", row(*registry, *found, news.daemon));
        const auto points = registry->metrics_since(number, step);
        if (!points.empty()) {
          step = points.back().step;             // its line may be followed by the evaluation's, of the same step
          text += event("points", columns(points));
        }
        json evaluations = json::array();
        for (const registry::Evaluation& row : registry->evaluations(number, false))
          evaluations.push_back({{"step", row.step}, {"problems", row.problems}, {"correct", row.correct},
                                 {"quant", row.quant}, {"trained_quant", row.trained_quant}});
        text += event("evaluations", evaluations);
      }
      for (auto& [name, from] : logs) {
        std::int64_t size = 0;
        std::string piece = read_text(folder / (name + ".log"), from, kStreamPiece, size);
        if (size < from) piece = read_text(folder / (name + ".log"), from = 0, kStreamPiece, size);  // begun anew
        if (piece.empty()) continue;
        text += event("log", {{"name", name}, {"from", from}, {"text", piece}});
        from += static_cast<std::int64_t>(piece.size());
      }
      if (text.empty() && Clock::now() - spoken > kSignOfLife) text = ": still here\n\n";
      if (!send(text)) return;
      if (!text.empty()) spoken = Clock::now();
      news = live_.wait(news.sequence, kPatience);
      changed = std::find(news.runs.begin(), news.runs.end(), number) != news.runs.end();
    }
  });
}

}  // namespace assay::runner::web

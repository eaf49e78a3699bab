#include "runner_case.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "runner/errors.h"
#include "runner/metrics_line.h"
#include "runner/protocol.h"
#include "runner/server.h"

namespace assay::fuzz {
namespace {

using nlohmann::json;

[[noreturn]] void broken(const std::string& what) { throw std::runtime_error(what); }

struct Plain {
  std::int64_t step = 0;
  std::map<std::string, double> metrics;
};

std::optional<double> number(const json& value) {
  if (value.is_number()) return value.get<double>();
  if (value == "nan") return std::nan("");
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

// The same rules on the whole tree. Keys that come twice are left to the other reader: a tree keeps the last only.
std::optional<Plain> plain_reading(const json& line) {
  if (!line.is_object() || !line.contains("step") || !line.contains("metrics")) return std::nullopt;
  const json& step = line.at("step");
  if (!step.is_number_integer() || !line.at("metrics").is_object()) return std::nullopt;
  if (step.is_number_unsigned() && step.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
  if (step.get<std::int64_t>() < 0 || line.at("metrics").size() > runner::kMostMetrics) return std::nullopt;
  Plain plain{step.get<std::int64_t>(), {}};
  for (const auto& [key, value] : line.at("metrics").items()) {
    const auto found = number(value);
    if (!found || key.size() > runner::kLongestKey) return std::nullopt;
    plain.metrics[key] = *found;
  }
  return plain;
}

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) || (std::isnan(a) && std::isnan(b));
}

struct Shape {
  int deepest = 0;
  bool twice = false;     // some object has a key twice
};
Shape shape_of(std::string_view text) {
  Shape shape;
  std::vector<std::map<std::string, int>> keys(1);
  [[maybe_unused]] const json whole = json::parse(text, [&](int depth, json::parse_event_t event, json& parsed) {
    shape.deepest = std::max(shape.deepest, depth);
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end || event == json::parse_event_t::array_end) keys.pop_back();
    if (event == json::parse_event_t::key) shape.twice |= ++keys.back()[parsed.get<std::string>()] > 1;
    return true;
  });
  return shape;
}

}  // namespace

void check_metrics_line(std::string_view line) {
  runner::MetricsLine read;
  bool torn = false;
  const std::string why = runner::read_metrics_line(line, read, torn);
  const bool whole = json::accept(line);
  if (torn && whole) broken("whole JSON is called torn: " + why);
  if (why.empty() && !whole) broken("what is no JSON was taken");
  if (!whole) return;
  const Shape shape = shape_of(line);
  if (shape.twice || shape.deepest >= 64) return;
  const auto plain = plain_reading(json::parse(line));
  if (plain.has_value() != why.empty())
    broken(plain ? "a good line was refused: " + why : "a line was taken that a plain reading refuses");
  if (!plain) return;
  if (read.step != plain->step || read.count != plain->metrics.size()) broken("step or number of metrics differ");
  for (std::size_t i = 0; i < read.count; ++i)
    if (!same(read.values[i].value, plain->metrics.at(read.values[i].key))) broken("the value of " + read.values[i].key + " differs");
}

void check_protocol(std::string_view bytes) {
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("assay-fuzz-" + std::to_string(::getpid()))).string();
  asio::io_context io;
  // As the daemon decodes, without a fleet behind it.
  runner::Server server(io, path, [](const json& request, const runner::Fd&) -> json {
    try {
      const std::string op = request.at("op").get<std::string>();
      if (op == "submit") {
        const runner::Submission submission = runner::submission_from_json(request);
        if (!submission.runs.empty() && runner::to_json(runner::submission_from_json(runner::to_json(submission))) !=
                                            runner::to_json(submission))
          std::abort();
        return {{"ok", true}};
      }
      if (op == "kill") {
        request.at("numbers").get<std::vector<std::int64_t>>();
        request.at("by").get<std::string>();
        request.at("grace").get<double>();
        return {{"ok", true}};
      }
      return runner::failure("unknown", runner::kUsage);
    } catch (const json::exception& error) {
      return runner::failure(error.what(), runner::kUsage);
    }
  });
  const int client = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) broken("no connection");
  std::string sent(bytes.substr(0, 100'000));
  sent += '\n';
  std::string reply;
  const auto expected = static_cast<std::size_t>(std::count(sent.begin(), sent.end(), '\n'));
  std::size_t at = 0;
  for (int idle = 0; static_cast<std::size_t>(std::count(reply.begin(), reply.end(), '\n')) < expected;) {
    if (at < sent.size()) {
      const ssize_t n = ::send(client, sent.data() + at, sent.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) at += static_cast<std::size_t>(n);
    }
    io.restart();
    idle = io.poll() > 0 ? 0 : idle + 1;
    char buffer[1 << 16];
    const ssize_t n = ::recv(client, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n == 0) broken("the server hung up");
    if (n > 0) reply.append(buffer, static_cast<std::size_t>(n));
    if (idle > 1000) broken("a line was not answered");
  }
  ::close(client);
  io.restart();
  io.poll();
  for (std::size_t begin = 0; begin < reply.size();) {
    const std::size_t end = reply.find('\n', begin);
    const json answer = json::parse(reply.substr(begin, end - begin), nullptr, false);
    if (!answer.is_object() || !answer.contains("ok")) broken("an answer is not what the protocol says: " + reply.substr(begin, end - begin));
    begin = end + 1;
  }
}

}  // namespace assay::fuzz

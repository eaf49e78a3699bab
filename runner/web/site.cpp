#include "runner/web/site.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>

#include "runner/errors.h"
#include "runner/process.h"
#include "runner/protocol.h"
#include "runner/view.h"

namespace assay::runner::web {
namespace {

using nlohmann::json;
using registry::ListQuery;
using registry::StateKind;

constexpr std::int64_t kLongestPage = 500;

Response reply(const json& document) {
  Response response;
  response.body = dump(document);
  return response;
}

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  for (std::size_t begin = 1; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (end > begin) parts.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string title_of(const std::string& run_json) {
  const json document = json::parse(run_json, nullptr, false);
  return document.is_object() ? document.value("title", "") : "";
}

}  // namespace

Response error(int status, const std::string& sentence) {
  Response response;
  response.status = status;
  response.body = dump({{"error", sentence}});
  return response;
}

std::int64_t whole_number(const std::string& text, const std::string& what) {
  std::int64_t number = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (bad != std::errc() || end != text.data() + text.size() || number < 0)
    throw Refusal{400, what + ": '" + text + "' is not a whole number"};
  return number;
}

std::int64_t number_parameter(const Request& request, const std::string& name, std::int64_t otherwise,
                              std::int64_t most) {
  const std::string text = request.parameter(name);
  return text.empty() ? otherwise : std::min(most, whole_number(text, name));
}

json metric_json(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

json columns(const std::vector<registry::MetricPoint>& points) {
  std::vector<std::int64_t> steps;
  std::map<std::string, std::map<std::size_t, double>> values;
  for (const registry::MetricPoint& point : points) {
    if (steps.empty() || steps.back() != point.step) steps.push_back(point.step);
    values[point.key][steps.size() - 1] = point.value;
  }
  json object = json::object();
  for (const auto& [key, at] : values) {
    json column = json::array();
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto found = at.find(i);
      column.push_back(found == at.end() ? json(nullptr) : metric_json(found->second));
    }
    object[key] = std::move(column);
  }
  return {{"steps", steps}, {"values", std::move(object)}};
}

Site::Site(Paths paths, AccessRules rules, Live& live) : paths_(std::move(paths)), rules_(std::move(rules)), live_(live) {}

Site::Lease::~Lease() {
  const std::lock_guard lock(site_.mutex_);
  site_.idle_.push_back(std::move(opened_));
}

Site::Lease Site::open() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto opened = std::move(idle_.back());
      idle_.pop_back();
      return Lease(*this, std::move(opened));
    }
  }
  auto registry = registry::Registry::open(paths_.registry(), registry::Registry::Access::read_only);
  return Lease(*this, std::unique_ptr<Opened>(new Opened{std::move(registry), registry::Listing(paths_.registry())}));
}

Response Site::answer(const Request& request) {
  Response response;
  try {
    const std::string refused = refuse_host(request, rules_);
    response = refused.empty() ? route(request) : error(403, refused);
  } catch (const Refusal& refusal) {
    response = error(refusal.status, refusal.sentence);
  } catch (const UserError& fault) {
    response = error(fault.code() == kNoSuchRun ? 404 : fault.code() == kDaemon || fault.code() == kFault ? 503 : 400,
                     fault.what());
  } catch (const std::exception& fault) {
    response = error(500, fault.what());
  }
  for (const auto& header : security_headers(rules_.actions)) response.headers.insert(header);
  return response;
}

Response Site::route(const Request& request) {
  const std::vector<std::string> parts = split(request.path);
  if (request.method == "POST" && parts.size() == 3 && parts[0] == "api" && parts[1] == "actions") {
    if (const std::string refused = refuse_action(request, rules_); !refused.empty()) return error(403, refused);
    return reply(act(parts[2], request));
  }
  if (request.method != "GET") {
    Response response = error(405, "only GET is answered here");
    response.headers["Allow"] = "GET, HEAD";
    return response;
  }
  if (!parts.empty() && parts[0] == "api") return api({parts.begin() + 1, parts.end()}, request);
  if (parts.size() == 2 && parts[0] == "static") return file(parts[1], "", request);
  if (parts.size() == 3 && parts[0] == "static") return file(parts[2], parts[1], request);
  if (request.path == "/favicon.ico") return file("icon.svg", "", request);
  if (parts.size() == 3 && parts[0] == "series" && parts[2] == "report") return report(parts[1]);
  std::string script = "missing.js";
  if (parts.empty()) script = "runs.js";
  else if (parts[0] == "run" && parts.size() == 2 && parts[1].find_first_not_of("0123456789") == std::string::npos) script = "run.js";
  else if (parts[0] == "series" && parts.size() <= 2) script = "series.js";
  else if (parts[0] == "compare" && parts.size() == 1) script = "compare.js";
  return page(script, request);
}

Response Site::api(const std::vector<std::string>& parts, const Request& request) {
  const std::string first = parts.empty() ? "" : parts[0];
  if (first == "state" && parts.size() == 1) return reply(state());
  if (first == "events" && parts.size() == 1) return all_events();
  if (first == "runs" && parts.size() == 1) return reply(runs(request));
  if (first == "runs") return of_run(parts, request);
  if (first == "series" && parts.size() == 1) return reply(series(""));
  if (first == "series" && parts.size() == 2) return reply(series(parts[1]));
  if (first == "metrics" && parts.size() == 1) {
    std::vector<std::int64_t> numbers;
    for (const std::string& word : request.parameters("run")) numbers.push_back(whole_number(word, "run"));
    return reply(metrics(request, numbers));
  }
  if (first == "compare" && parts.size() == 1) {
    Response response;
    response.body = compare(request);
    return response;
  }
  if (first == "problems" && parts.size() == 1) return reply(problems(request));
  return error(404, "there is nothing at " + request.path);
}

Response Site::of_run(const std::vector<std::string>& parts, const Request& request) {
  const std::int64_t number = whole_number(parts[1], "run");
  if (parts.size() == 2) return reply(run(number));
  if (parts.size() == 3 && parts[2] == "metrics") return reply(metrics(request, {number}).at(0));
  if (parts.size() == 3 && parts[2] == "log") return reply(log(number, request));
  if (parts.size() == 3 && parts[2] == "events") return run_events(number, request);
  if (parts.size() == 4 && parts[2] == "evaluations")
    return reply(evaluation(number, whole_number(parts[3], "step"), request));
  return error(404, "there is nothing at " + request.path);
}

json Site::row(const registry::Registry& registry, const registry::RunRow& run, const json& daemon) {
  const registry::Progress progress = registry.progress(run.number);
  // Not copied: there may be a reason for each of thousands that wait.
  std::optional<std::string> reason;
  if (const auto waits = daemon.find("waits"); waits != daemon.end())
    if (const auto found = waits->find(std::to_string(run.number)); found != waits->end()) reason = found->get<std::string>();
  json object = runner::run_json(run, progress, reason);
  object["title"] = title_of(run.run_json);
  object["accuracy_other_quant"] = progress.accuracy && other_quant(registry.evaluations(run.number, false));
  object["held"] = run.held;
  const auto left = run.state.kind == StateKind::running ? time_left(run, progress, unix_now()) : std::nullopt;
  object["time_left"] = left ? json(*left) : json(nullptr);
  return object;
}

json Site::state() {
  const Lease registry = open();
  json counts = json::object();
  for (const auto& [kind, count] : registry.listing().count_by_state()) counts[registry::name(kind)] = count;
  return {{"daemon", live_.daemon()}, {"counts", counts},        {"actions", rules_.actions},
          {"now", unix_now()},        {"data", paths_.data.string()}, {"version", ASSAY_VERSION}};
}

json Site::runs(const Request& request) {
  static const std::map<std::string, ListQuery::Order> orders = {
      {"active", ListQuery::Order::active},   {"number", ListQuery::Order::number},
      {"run", ListQuery::Order::run},         {"series", ListQuery::Order::series},
      {"state", ListQuery::Order::state},     {"score", ListQuery::Order::score},
      {"accuracy", ListQuery::Order::accuracy}, {"created", ListQuery::Order::created},
      {"started", ListQuery::Order::started}, {"took", ListQuery::Order::took}};
  ListQuery query;
  query.series = request.parameter("series");
  query.text = request.parameter("text");
  const auto order = orders.find(request.parameter("sort", "active"));
  if (order == orders.end()) throw Refusal{400, "sort: '" + request.parameter("sort") + "' is no column"};
  query.order = order->second;
  query.descending = request.parameter("order", "desc") != "asc";
  query.offset = number_parameter(request, "offset", 0, INT64_MAX);
  query.limit = number_parameter(request, "limit", 100, kLongestPage);
  for (const std::string& word : request.parameters("state")) {
    const auto kind = registry::parse_state(word);
    if (!kind) throw Refusal{400, "state: '" + word + "' is no state"};
    query.states.push_back(*kind);
  }
  const Lease registry = open();
  const registry::RunList list = registry.listing().list(query);
  const json daemon = live_.daemon();
  json rows = json::array();
  for (const std::int64_t number : list.numbers)
    if (const auto found = registry->run(number)) rows.push_back(row(*registry, *found, daemon));
  return {{"total", list.total}, {"offset", query.offset}, {"runs", std::move(rows)}};
}

json Site::series(const std::string& id) {
  const Lease registry = open();
  json all = json::array();
  for (const registry::SeriesCount& row : registry.listing().count_by_series()) {
    if (!id.empty() && row.id != id) continue;
    all.push_back({{"id", row.id}, {"title", row.title}, {"goal", row.goal}, {"runs", row.runs},
                   {"active", row.active}, {"succeeded", row.succeeded},
                   {"last", row.last > 0 ? json(row.last) : json(nullptr)}});
  }
  if (id.empty()) return {{"series", std::move(all)}};
  if (all.empty()) throw Refusal{404, "there is no series '" + id + "' in this registry"};
  return all.at(0);
}

}  // namespace assay::runner::web

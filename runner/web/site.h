// What the page's server answers. Everything read comes from the registry and the run folders; nothing here writes,
// except the actions, which go through the daemon like any command.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "registry/listing.h"
#include "registry/registry.h"
#include "runner/paths.h"
#include "runner/web/access.h"
#include "runner/web/http.h"
#include "runner/web/live.h"

namespace assay::runner::web {

// A request that cannot be met: its status and one sentence, which the page shows.
struct Refusal {
  int status;
  std::string sentence;
};

class Site {
 public:
  Site(Paths paths, AccessRules rules, Live& live);
  // Any thread; never throws.
  Response answer(const Request& request);
  void set_rules(AccessRules rules) { rules_ = std::move(rules); }   // before the first request

 private:
  // An open registry for the length of one request; each belongs to one thread at a time.
  struct Opened {
    registry::Registry registry;
    registry::Listing listing;
  };
  class Lease {
   public:
    Lease(Site& site, std::unique_ptr<Opened> opened) : site_(site), opened_(std::move(opened)) {}
    ~Lease();
    const registry::Registry& operator*() const { return opened_->registry; }
    const registry::Registry* operator->() const { return &opened_->registry; }
    const registry::Listing& listing() const { return opened_->listing; }

   private:
    Site& site_;
    std::unique_ptr<Opened> opened_;
  };
  Lease open();

  Response route(const Request& request);
  Response api(const std::vector<std::string>& parts, const Request& request);
  Response of_run(const std::vector<std::string>& parts, const Request& request);
  // page.cpp
  // The one document of all pages, with the script that makes this one of it and what that would ask for first: the state,
  // and for the list the first runs. missing.js is the page of an address that has none (404).
  Response page(const std::string& script, const Request& request);
  // site.cpp
  nlohmann::json state();
  nlohmann::json runs(const Request& request);
  nlohmann::json series(const std::string& id);
  nlohmann::json row(const registry::Registry& registry, const registry::RunRow& run, const nlohmann::json& daemon);
  // run_page.cpp
  nlohmann::json run(std::int64_t number);
  nlohmann::json metrics(const Request& request, const std::vector<std::int64_t>& numbers);
  nlohmann::json log(std::int64_t number, const Request& request);
  nlohmann::json evaluation(std::int64_t number, std::int64_t step, const Request& request);
  // comparing.cpp
  std::string compare(const Request& request);
  nlohmann::json problems(const Request& request);
  Response report(const std::string& series);
  // streams.cpp
  Response all_events();
  Response run_events(std::int64_t number, const Request& request);
  // actions.cpp
  nlohmann::json act(const std::string& what, const Request& request);

  Paths paths_;
  AccessRules rules_;
  Live& live_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Opened>> idle_;
};

Response error(int status, const std::string& sentence);
// A file of the page. Under /static/DIGEST/ a browser keeps it: another program has another digest. Elsewhere it asks again.
Response file(const std::string& name, const std::string& digest, const Request& request);
// A whole number in a path or a query. Throws Refusal 400 that names it.
std::int64_t whole_number(const std::string& text, const std::string& what);
std::int64_t number_parameter(const Request& request, const std::string& name, std::int64_t otherwise,
                              std::int64_t most);
// A metric as JSON has it: NaN and infinities are the strings of metrics.jsonl.
nlohmann::json metric_json(double value);
// {"steps": [0, 1], "values": {"key": [0.1, null]}} of points in the order of their steps.
nlohmann::json columns(const std::vector<registry::MetricPoint>& points);
// Bytes of a file from an offset on, at most `most`, cut so that no character is torn; `size` becomes the file's.
std::string read_text(const std::filesystem::path& file, std::int64_t from, std::int64_t most, std::int64_t& size);

// A file of the page, embedded into the program; nullptr: there is none of that name.
struct Asset {
  const char* name;
  const char* type;
  const char* begin;
  const char* end;
};
const Asset* find_asset(const std::string& name);
extern const char* const kAssetsDigest;   // of all of them

}  // namespace assay::runner::web

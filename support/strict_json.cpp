#include "support/strict_json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace assay::support {

nlohmann::json parse_strict_json(std::string_view text) {
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> open;  // the keys of each object that the parser is inside of
  const auto watch = [&open](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > 64) throw std::runtime_error("nested too deeply");
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second)
      throw std::runtime_error("the key '" + parsed.get<std::string>() + "' comes twice");
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    // The library's text starts with its own error number in brackets.
    const std::string_view what = error.what();
    const std::size_t bracket = what.find("] ");
    throw std::runtime_error(std::string(bracket == what.npos ? what : what.substr(bracket + 2)));
  }
}

}  // namespace assay::support

#include "reports/templates.h"

#include <sstream>

namespace assay::report {

std::string substitute(const std::string& text, const std::map<std::string, std::string>& values) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t open = text.find("{{", at);
    const std::size_t close = open == std::string::npos ? open : text.find("}}", open);
    if (close == std::string::npos) return out + text.substr(at);
    const auto found = values.find(text.substr(open + 2, close - open - 2));
    out += text.substr(at, open - at);
    out += found != values.end() ? found->second : text.substr(open, close + 2 - open);
    at = close + 2;
  }
  return out;
}

std::vector<const Part*> ordered(const Document& document, const Templates& templates) {
  std::vector<const Part*> parts;
  const auto order = templates.find("order");
  if (order == templates.end()) {
    for (const Part& part : document.parts) parts.push_back(&part);
    return parts;
  }
  std::istringstream lines(order->second);
  for (std::string name; lines >> name;)
    for (const Part& part : document.parts)
      if (part.id == name) parts.push_back(&part);
  return parts;
}

std::string filled(const Templates& templates, const std::string& name, const std::string& part, const std::string& title) {
  const auto found = templates.find(name);
  if (found == templates.end()) return part;
  return substitute(found->second, {{"part", part}, {"title", title}});
}

}  // namespace assay::report

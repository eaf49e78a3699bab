// One JSON line in, one out: {"wilson": [k, n, confidence]} or {"mcnemar": [b, c]}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "reports/statistics.h"

int main() {
  using nlohmann::json;
  for (std::string line; std::getline(std::cin, line);) {
    const json in = json::parse(line);
    json out;
    if (in.contains("wilson")) {
      const auto& a = in["wilson"];
      const auto interval = assay::report::wilson(a[0], a[1], a[2]);
      out = {interval.low, interval.high};
    } else {
      const auto& a = in.at("mcnemar");
      out = assay::report::mcnemar_exact(a[0], a[1]);
    }
    std::cout << out << '\n';
  }
}

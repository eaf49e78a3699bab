// One JSON line in, one out: {"NAME": [arguments]}, as tests/parity/reports/statistics_parity.py asks.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "reports/statistics.h"

int main() {
  using nlohmann::json;
  using namespace assay::report;
  for (std::string line; std::getline(std::cin, line);) {
    const json in = json::parse(line);
    const std::string name = in.begin().key();
    const json& a = in.begin().value();
    const auto pair = [](const Interval& interval) { return json{interval.low, interval.high}; };
    json out;
    if (name == "wilson") out = pair(wilson(a[0], a[1], a[2]));
    else if (name == "mcnemar") out = mcnemar_exact(a[0], a[1]);
    else if (name == "paired_difference") out = pair(paired_difference(a[0], a[1], a[2], a[3]));
    else if (name == "two_proportions") out = two_proportions(a[0], a[1], a[2], a[3]);
    else if (name == "fisher") out = fisher_exact(a[0], a[1], a[2], a[3]);
    else if (name == "newcombe") out = pair(newcombe(a[0], a[1], a[2], a[3], a[4]));
    else if (name == "spread") out = {spread(a[0], a[1]).chi_square, spread(a[0], a[1]).p};
    else if (name == "mean") {
      const Mean mean = mean_of(a[0], a[1]);
      out = {mean.mean, mean.interval->low, mean.interval->high, *mean.p};
    } else if (name == "holm") out = holm(a);
    else if (name == "power") out = power(a[0], a[1], a[2], a[3]);
    else if (name == "detectable") out = detectable(a[0], a[1]).value();
    else out = "unknown: " + name;
    std::cout << out << std::endl;
  }
}

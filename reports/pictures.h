// The pictures of a log as gnuplot scripts. Pure: whoever has gnuplot runs them (runner/series_report.h). Colours are those
// of Okabe and Ito, which the colour-blind tell apart; dashes and marks tell the curves apart in grey as well.
#pragma once

#include <string>
#include <vector>

#include "reports/series_log.h"

namespace assay::report {

struct Plot {
  std::string name;      // accuracy, score, differences, gradient, error
  std::string body;      // everything but terminal and output
  std::string note;      // for its caption: what is not drawn, which curves coincide
  int width = 960, height = 480;
};

// Those for which there is something to show.
std::vector<Plot> plots(const SeriesLog& log);

// A whole script: `terminal` is svg or pngcairo; `output` the file it writes. No date gets into it or into what it makes.
std::string plot_script(const Plot& plot, const std::string& terminal, const std::string& output);

std::string gnuplot_quoted(const std::string& plain);   // in single quotes, in which nothing is special

}  // namespace assay::report

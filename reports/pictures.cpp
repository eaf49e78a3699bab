#include "reports/pictures.h"

#include <algorithm>
#include <array>
#include <map>

#include "reports/arms.h"
#include "reports/text.h"

namespace assay::report {
namespace {

constexpr std::array<const char*, 7> kColours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"};
constexpr std::array<int, 7> kMarks = {7, 5, 9, 11, 13, 6, 4};
constexpr std::size_t kMostCurves = 14;   // more than that nobody tells apart; the table has all

std::string number(double value) { return shortest(rounded(value)); }

std::string short_label(const std::string& id) {
  constexpr std::size_t kLongest = 40;
  if (id.size() <= kLongest) return id;
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(id[end]) & 0xC0) == 0x80) --end;   // no half of a character
  return id.substr(0, end) + "…";
}

std::string look(std::size_t i) {
  return "lc rgb '" + std::string(kColours[i % kColours.size()]) + "' dt " + std::to_string(1 + i / kColours.size() % 4);
}
std::string mark(std::size_t i) { return "pt " + std::to_string(kMarks[i % kMarks.size()]) + " ps 0.9"; }

struct Band {
  double x, middle, low, high;
};
struct Curve {
  std::string label;
  std::vector<Band> points;
  bool band = false;      // several seeds: shown as an area, otherwise as error bars
  bool bars = false;
};

// Curves that are the same to the last digit are one, named by all of them.
void merge_equal(std::vector<Curve>& curves) {
  std::vector<Curve> merged;
  std::vector<std::vector<std::string>> names;
  for (Curve& curve : curves) {
    const auto same = std::find_if(merged.begin(), merged.end(), [&](const Curve& other) {
      return std::equal(other.points.begin(), other.points.end(), curve.points.begin(), curve.points.end(),
                        [](const Band& a, const Band& b) { return a.x == b.x && a.middle == b.middle; });
    });
    if (same != merged.end()) {
      names[static_cast<std::size_t>(same - merged.begin())].push_back(curve.label);
      continue;
    }
    names.push_back({curve.label});
    merged.push_back(std::move(curve));
  }
  for (std::size_t i = 0; i < merged.size(); ++i) {
    const auto& all = names[i];
    merged[i].label = all.size() <= 2 ? all.front() + (all.size() == 2 ? ", " + all.back() : "")
                                      : all.front() + ", " + all[1] + " and " + std::to_string(all.size() - 2) + " more";
  }
  curves = std::move(merged);
}

std::string curves_body(std::vector<Curve> curves, const std::string& x, const std::string& y, bool dodge) {
  if (curves.size() > kMostCurves) curves.resize(kMostCurves);
  double low = 0, high = 0, top = 0;
  for (const Curve& curve : curves)
    for (const Band& point : curve.points) {
      low = std::min(low, point.x);
      high = std::max(high, point.x);
      top = std::max(top, point.high);
    }
  const double step = dodge ? (high - low) * 0.006 : 0;
  std::string data, plot;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const std::string block = "$c" + std::to_string(i);
    data += block + " << EOD\n";
    const double shift = step * (static_cast<double>(i) - static_cast<double>(curves.size() - 1) / 2);
    for (const Band& point : curves[i].points)
      data += number(point.x + shift) + " " + number(point.middle) + " " + number(point.low) + " " + number(point.high) + "\n";
    data += "EOD\n";
    const auto add = [&](const std::string& what) { plot += (plot.empty() ? "plot " : ", \\\n     ") + block + " " + what; };
    if (curves[i].band) add("using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '" + std::string(kColours[i % kColours.size()]) + "' notitle");
    if (curves[i].bars) add("using 1:2:3:4 with yerrorbars pt -1 lw 1 lc rgb '" + std::string(kColours[i % kColours.size()]) + "' notitle");
    add("using 1:2 with linespoints lw 1.6 " + look(i) + " " + mark(i) + " title " + gnuplot_quoted(short_label(curves[i].label)));
  }
  const double margin = (high - low) * 0.04 + (high == low ? 1 : 0);
  return data + "set xlabel " + gnuplot_quoted(x) + "\nset ylabel " + gnuplot_quoted(y) + "\nset xrange [" + number(low - margin) +
         ":" + number(high + margin) + "]\nset yrange [0:" + number(top > 0 ? top * 1.06 : 1) +
         "]\nset grid ytics lc rgb '#dddddd' lw 1 dt 1\nset key outside right center Left reverse samplen 3 spacing 1.15\n" + plot + "\n";
}

Plot accuracy_plot(const std::vector<Arm>& arms) {
  std::vector<Curve> curves;
  for (const Arm& arm : arms) {
    std::map<std::int64_t, std::vector<const EvalPoint*>> by_step;
    for (const LoggedRun* run : arm.runs)
      for (const EvalPoint& point : run->evaluations)
        if (point.problems > 0) by_step[point.step].push_back(&point);
    Curve curve{arm.id, {}, arm.runs.size() > 1, arm.runs.size() == 1};
    for (const auto& [step, points] : by_step) {
      std::vector<double> values;
      for (const EvalPoint* point : points) values.push_back(percent_of(*point));
      const Interval wide = wilson(points.front()->correct, points.front()->problems);
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      const bool one = values.size() == 1;
      curve.points.push_back({static_cast<double>(step), mean_of(values).mean, one ? 100 * wide.low : *least, one ? 100 * wide.high : *most});
    }
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  if (curves.empty()) return {};
  const std::size_t count = curves.size();
  return {"accuracy", curves_body(std::move(curves), "training step", "accuracy on the test problems, %", true), 960, count > 12 ? 560 : 480};
}

Plot score_plot(const std::vector<Arm>& arms) {
  std::vector<Curve> curves;
  bool two = false;
  for (const Arm& arm : arms) {
    std::map<std::int64_t, std::vector<double>> by_step;
    for (const LoggedRun* run : arm.runs)
      for (const auto& [step, share] : run->scores) by_step[step].push_back(100 * share);
    Curve curve{arm.id, {}, arm.runs.size() > 1, false};
    for (const auto& [step, values] : by_step) {
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      curve.points.push_back({static_cast<double>(step), mean_of(values).mean, *least, *most});
    }
    two |= curve.points.size() > 1;
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  if (!two) return {};
  const std::size_t count = curves.size();
  return {"score", curves_body(std::move(curves), "training step", "mean training score, %", false), 960, count > 12 ? 560 : 480};
}

Plot layer_plot(const std::vector<Arm>& arms, const std::string& name, const std::string& y,
                const std::vector<double>& (*values_of)(const LoggedRun&, std::vector<double>&)) {
  std::vector<Curve> curves;
  for (const Arm& arm : arms) {
    std::vector<double> kept;
    const std::vector<double>& values = values_of(arm.any(), kept);
    Curve curve{arm.id, {}, false, false};
    for (std::size_t i = 0; i < values.size(); ++i) curve.points.push_back({static_cast<double>(i), values[i], values[i], values[i]});
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  if (curves.empty()) return {};
  merge_equal(curves);
  return {name, "set xtics 1\n" + curves_body(std::move(curves), "decoder layer", y, false), 960, 420};
}

const std::vector<double>& coverage(const LoggedRun& run, std::vector<double>& kept) {
  for (const LayerCount& layer : run.coverage)
    kept.push_back(layer.tensors > 0 ? 100.0 * static_cast<double>(layer.with_gradient) / static_cast<double>(layer.tensors) : 0);
  return kept;
}

const std::vector<double>& weight_error(const LoggedRun& run, std::vector<double>&) { return run.weight_error; }

Plot forest_plot(const std::vector<Arm>& arms) {
  std::string data, tics;
  int rows = 0;
  double low = 0, high = 0;
  for (const Arm& arm : arms) {
    const Arm* against = find_arm(arms, arm.any().result.baseline);
    if (against == nullptr) continue;
    const Contrast c = contrast(arm, *against);
    if (!c.points) continue;
    ++rows;
    data += number(*c.points) + " " + std::to_string(-rows) + " " + number(c.interval.low) + " " + number(c.interval.high) + "\n";
    tics += (tics.empty() ? "" : ", ") + gnuplot_quoted(short_label(arm.id) + " − " + short_label(c.against)) + " " + std::to_string(-rows);
    low = std::min(low, c.interval.low);
    high = std::max(high, c.interval.high);
  }
  if (rows == 0) return {};
  const double margin = std::max(1.0, (high - low) * 0.05);
  std::string body = "$d << EOD\n" + data + "EOD\nset ytics (" + tics + ")\nset xlabel 'difference in accuracy at the last step, percentage points (95 % interval)'\n"
                     "set xrange [" + number(low - margin) + ":" + number(high + margin) + "]\nset yrange [" + std::to_string(-rows) +
                     ".6:-0.4]\nset grid xtics lc rgb '#dddddd' lw 1 dt 1\nset arrow 1 from first 0, graph 0 to first 0, graph 1 nohead lc rgb '#444444' dt 2 lw 1\nunset key\n"
                     "plot $d using 1:2:3:4 with xerrorbars pt 7 ps 0.9 lw 1.6 lc rgb '#0072B2'\n";
  return {"differences", body, 960, 90 + 30 * rows};
}

}  // namespace

std::string gnuplot_quoted(const std::string& plain) {
  std::string out = "'";
  for (const char c : plain) {
    if (c == '\'') out += "''";
    else out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  }
  return out + "'";
}

std::vector<Plot> plots(const SeriesLog& log) {
  const std::vector<Arm> arms = arms_of(log);
  std::vector<Plot> all = {accuracy_plot(arms), score_plot(arms), forest_plot(arms),
                           layer_plot(arms, "gradient", "adapter tensors with a gradient, %", coverage),
                           layer_plot(arms, "error", "relative error of the weights, %", weight_error)};
  std::erase_if(all, [](const Plot& plot) { return plot.body.empty(); });
  return all;
}

std::string plot_script(const Plot& plot, const std::string& terminal, const std::string& output) {
  // Nothing of a picture before it in the same session stays.
  return "reset session\nset terminal " + terminal + " size " + std::to_string(plot.width) + "," + std::to_string(plot.height) +
         " noenhanced font 'DejaVu Sans," + (terminal == "svg" ? "13" : "11") + "' background '#ffffff'\nset output " + gnuplot_quoted(output) +
         "\nset encoding utf8\nset border 3 lc rgb '#444444'\nset tics nomirror\n" + plot.body + "unset output\n";
}

}  // namespace assay::report

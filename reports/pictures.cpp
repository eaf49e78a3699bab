#include "reports/pictures.h"

#include <algorithm>
#include <array>
#include <map>

#include "reports/arms.h"
#include "reports/log_parts.h"
#include "reports/text.h"

namespace assay::report {
namespace {

// Okabe and Ito's, black first; dashes and marks tell them apart in grey.
constexpr std::array<const char*, 6> kColours = {"#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00"};
constexpr std::array<const char*, 6> kDashes = {"1", "(9,4)", "(3,3)", "1", "(9,4)", "(3,3)"};
constexpr std::array<int, 6> kMarks = {7, 5, 9, 6, 4, 8};
constexpr std::size_t kInPanel = 6;       // more curves than that nobody tells apart: they go to the next panel
constexpr std::size_t kMostCurves = 60;   // of a series of hundreds; the caption says so, the table has all
constexpr std::size_t kMostBehind = 24;   // up to so many curves, those of the other panels stand behind each in grey

std::string number(double value) { return shortest(rounded(value)); }

std::string short_label(const std::string& id) {
  constexpr std::size_t kLongest = 40;
  if (id.size() <= kLongest) return id;
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(id[end]) & 0xC0) == 0x80) --end;   // no half of a character
  return id.substr(0, end) + "…";
}

std::string colour(std::size_t i) { return "lc rgb '" + std::string(kColours[i % kColours.size()]) + "'"; }
std::string look(std::size_t i) { return colour(i) + " dt " + kDashes[i % kDashes.size()]; }
std::string mark(std::size_t i) { return "pt " + std::to_string(kMarks[i % kMarks.size()]) + " ps 0.8"; }

struct Point {
  double x, middle;
  Interval seeds, bar;    // from the lowest to the highest seed; the interval of the middle
};
struct Curve {
  std::string label;
  std::vector<Point> points;
  bool band = false;      // several seeds, as an area
  bool bars = false;
};

// Curves that are the same to the last digit are one; which ones it stands for is said in words.
std::string merge_equal(std::vector<Curve>& curves) {
  std::vector<Curve> merged;
  std::vector<std::vector<std::string>> names;
  for (Curve& curve : curves) {
    const auto same = std::find_if(merged.begin(), merged.end(), [&](const Curve& other) {
      return std::equal(other.points.begin(), other.points.end(), curve.points.begin(), curve.points.end(),
                        [](const Point& a, const Point& b) { return a.x == b.x && a.middle == b.middle; });
    });
    if (same != merged.end()) {
      names[static_cast<std::size_t>(same - merged.begin())].push_back(curve.label);
      continue;
    }
    names.push_back({curve.label});
    merged.push_back(std::move(curve));
  }
  std::string words;
  for (std::size_t i = 0; i < merged.size(); ++i) {
    const auto& all = names[i];
    if (all.size() == 1) continue;
    merged[i].label = all.front() + (all.size() == 2 ? ", " + all.back() : " and " + std::to_string(all.size() - 1) + " more");
    if (all.size() > 2) words += (words.empty() ? "" : "; ") + merged[i].label + ": " + joined(all);
  }
  curves = std::move(merged);
  return words;
}

// One panel, or several with the same axes when there are more curves than one can hold.
Plot curves_plot(const std::string& name, std::vector<Curve> curves, const std::string& x, const std::string& y, bool dodge) {
  if (curves.empty()) return {};
  Plot plot;
  plot.name = name;
  if (curves.size() > kMostCurves) {
    plot.note = "the first " + std::to_string(kMostCurves) + " of " + std::to_string(curves.size()) + " are drawn";
    curves.resize(kMostCurves);
  }
  const std::size_t count = curves.size(), panels = (count + kInPanel - 1) / kInPanel;
  const std::size_t each = (count + panels - 1) / panels, columns = std::min<std::size_t>(panels, panels == 4 ? 2 : 3), rows = (panels + columns - 1) / columns;
  double low = 0, high = 0, top = 0;
  for (const Curve& curve : curves)
    for (const Point& point : curve.points) {
      low = std::min(low, point.x);
      high = std::max(high, point.x);
      top = std::max({top, point.middle, point.seeds.high, point.bar.high});
    }
  const double step = dodge ? (high - low) * 0.012 : 0;
  std::string data;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t inside = std::min(each, count - i / each * each);
    const double shift = step * (static_cast<double>(i % each) - static_cast<double>(inside - 1) / 2);
    data += "$c" + std::to_string(i) + " << EOD\n";
    for (const Point& point : curves[i].points)
      data += number(point.x + shift) + " " + number(point.middle) + " " + number(point.seeds.low) + " " + number(point.seeds.high) + " " +
              number(point.bar.low) + " " + number(point.bar.high) + "\n";
    data += "EOD\n";
  }
  const double margin = (high - low) * 0.04 + (high == low ? 1 : 0);
  std::string& body = plot.body;
  body = data + "set xrange [" + number(low - margin) + ":" + number(high + margin) + "]\nset yrange [0:" + number(top > 0 ? top * 1.06 : 1) +
         "]\nset grid ytics lt 1 dt solid lc rgb '#cccccc' lw 0.75\n";
  if (high - low <= 8) body += "set xtics 1\n";   // steps and layers are whole numbers
  const std::size_t lines = panels == 1 ? 0 : (each + 1) / 2;   // of the key above each panel
  if (panels == 1) {
    plot.height = 440;
    body += "set key outside right center Left reverse samplen 3 spacing 1.15\n";
  } else {
    // In pixels: what is above a panel (its key), the panel, what is below it; left and right of all.
    const int above = 14 + 19 * static_cast<int>(lines), panel = columns == 2 ? 260 : 230, below = 58, left = 76, right = 14;
    plot.width = 1040;
    plot.height = static_cast<int>(rows) * (above + panel + below);
    const auto share = [](int pixels, int of) { return number(static_cast<double>(pixels) / of); };
    body += "set multiplot layout " + std::to_string(rows) + "," + std::to_string(columns) + " margins " + share(left, plot.width) + "," +
            share(plot.width - right, plot.width) + "," + share(below, plot.height) + "," + share(plot.height - above, plot.height) +
            " spacing " + share(46, plot.width) + "," + share(above + below, plot.height) +
            "\nset key at graph 0, graph 1.03 left bottom Left reverse vertical maxrows " + std::to_string(lines) + " samplen 2.5 spacing 1.1\n";
  }
  for (std::size_t p = 0; p < panels; ++p) {
    body += "set xlabel " + gnuplot_quoted(p + columns >= panels ? x : "") + "\nset ylabel " + gnuplot_quoted(p % columns == 0 ? y : "") + "\n";
    std::string drawn;
    const auto add = [&](const std::string& what) { drawn += (drawn.empty() ? "plot " : ", \\\n     ") + what; };
    const std::size_t begin = p * each, end = std::min(count, begin + each);
    if (panels > 1 && count <= kMostBehind)
      for (std::size_t i = 0; i < count; ++i)
        if (i < begin || i >= end) add("$c" + std::to_string(i) + " using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle");
    for (std::size_t i = begin; i < end; ++i)
      if (curves[i].band) add("$c" + std::to_string(i) + " using 1:3:4 with filledcurves fs transparent solid 0.18 noborder " + colour(i - begin) + " notitle");
    for (std::size_t i = begin; i < end; ++i)
      if (curves[i].bars) add("$c" + std::to_string(i) + " using 1:2:5:6 with yerrorbars pt -1 lw 1 " + colour(i - begin) + " notitle");
    for (std::size_t i = begin; i < end; ++i)
      add("$c" + std::to_string(i) + " using 1:2 with linespoints lw 1.6 " + look(i - begin) + " " + mark(i - begin) + " title " +
          gnuplot_quoted(short_label(curves[i].label)));
    body += drawn + "\n";
  }
  if (panels > 1) body += "unset multiplot\n";
  return plot;
}

Plot accuracy_plot(const std::vector<Arm>& arms) {
  std::vector<Curve> curves;
  for (const Arm& arm : arms) {
    std::map<std::int64_t, std::vector<const EvalPoint*>> by_step;
    bool other = false;
    for (const LoggedRun* run : arm.runs)
      for (const EvalPoint& point : run->evaluations)
        if (point.problems > 0) {
          by_step[point.step].push_back(&point);
          other |= under_other_quant(point);
        }
    Curve curve{arm.id + (other ? " ‡" : ""), {}, arm.runs.size() > 1, true};
    for (const auto& [step, points] : by_step) {
      std::vector<double> values;
      std::int64_t correct = 0, problems = 0;
      for (const EvalPoint* point : points) {
        values.push_back(percent_of(*point));
        correct += point->correct;
        problems += point->problems;
      }
      const Interval wide = wilson(correct, problems);
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      curve.points.push_back({static_cast<double>(step), mean_of(values).mean, {*least, *most}, {100 * wide.low, 100 * wide.high}});
    }
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  return curves_plot("accuracy", std::move(curves), "training step", "test accuracy, %", true);
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
      const double mean = mean_of(values).mean;
      curve.points.push_back({static_cast<double>(step), mean, {*least, *most}, {mean, mean}});
    }
    two |= curve.points.size() > 1;
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  if (!two) return {};
  return curves_plot("score", std::move(curves), "training step", "mean training score, %", false);
}

Plot layer_plot(const std::vector<Arm>& arms, const std::string& name, const std::string& y,
                const std::vector<double>& (*values_of)(const LoggedRun&, std::vector<double>&)) {
  std::vector<Curve> curves;
  for (const Arm& arm : arms) {
    std::vector<double> kept;
    const std::vector<double>& values = values_of(arm.any(), kept);
    Curve curve{arm.id, {}, false, false};
    for (std::size_t i = 0; i < values.size(); ++i)
      curve.points.push_back({static_cast<double>(i), values[i], {values[i], values[i]}, {values[i], values[i]}});
    if (!curve.points.empty()) curves.push_back(std::move(curve));
  }
  const std::string same = merge_equal(curves);
  Plot plot = curves_plot(name, std::move(curves), "decoder layer", y, false);
  if (!same.empty()) plot.note += (plot.note.empty() ? "" : "; ") + same;
  return plot;
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
                     ".6:-0.4]\nset grid xtics lt 1 dt solid lc rgb '#cccccc' lw 0.75\nset arrow 1 from first 0, graph 0 to first 0, graph 1 nohead lc rgb '#444444' dt 2 lw 1\nunset key\n"
                     "plot $d using 1:2:3:4 with xerrorbars pt 7 ps 0.9 lw 1.6 lc rgb '#0072B2'\n";
  return {"differences", body, "", 960, 90 + 30 * rows};
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

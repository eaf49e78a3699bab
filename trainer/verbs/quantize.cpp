#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/checkpoint/quantize_model.h"
#include "support/suggest.h"
#include "trainer/grpo/exit_code.h"
#include "trainer/verbs/verbs.h"

namespace assay::train {
namespace {

using Json = nlohmann::ordered_json;
using quant::ErrorStats;
using quant::TensorReport;

// A regular expression of the command line, which matches anywhere in a tensor's name.
class Regex {
 public:
  Regex(const std::string& option, const std::string& pattern) : name_(option + " '" + pattern + "'") {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), 0, &error, &at, nullptr));
    if (!code_) {
      PCRE2_UCHAR text[256];
      pcre2_get_error_message(error, text, sizeof text);
      throw BadInput(name_ + ": " + reinterpret_cast<char*>(text) + " at character " + std::to_string(at + 1) +
                     "; give a regular expression, for example 'layers\\.0\\..*_proj\\.weight$'");
    }
    data_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  }

  bool matches(const std::string& text) {
    const bool yes = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data_.get(),
                                 nullptr) >= 0;
    used_ |= yes;
    return yes;
  }
  const std::string& name() const { return name_; }
  bool used() const { return used_; }

 private:
  template <auto release>
  struct Release {
    void operator()(auto* p) const { release(p); }
  };
  std::string name_;
  std::unique_ptr<pcre2_code, Release<pcre2_code_free>> code_;
  std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>> data_;
  bool used_ = false;
};

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

// "; did you mean …?", or all there are.
std::string instead(const std::string& typed, const std::vector<std::string>& known) {
  const std::string nearest = support::did_you_mean(typed, known);
  return nearest.empty() ? "; there are " + joined(known) : nearest;
}

struct Options {
  std::filesystem::path in, out;
  std::string format = "nvfp4", mode, scope = "tensor", rounding = "nearest_even";
  int axis = 1;
  std::uint64_t seed = 0;
  std::vector<std::string> tensors, excludes;
  bool tiles = false, pack = false, json = false;
};

quant::Spec spec_of(const Options& options) {
  quant::Spec spec;
  const auto format = quant::parse_format(options.format);
  if (!format) throw BadInput("--format: there is no format '" + options.format + "'" + instead(options.format, {"nvfp4", "mxfp4"}));
  spec.format = *format;
  const auto mode = quant::parse_mode(*format, options.mode);
  if (!mode) {
    const auto other = *format == quant::Format::nvfp4 ? quant::Format::mxfp4 : quant::Format::nvfp4;
    if (quant::parse_mode(other, options.mode))
      throw BadInput("--mode: '" + options.mode + "' is not a mode of " + options.format + "; type --format " +
                     std::string(quant::name(other)) + " with it, or a mode of " + options.format + ": " +
                     joined(quant::mode_names(*format)));
    throw BadInput("--mode: " + options.format + " has no mode '" + options.mode + "'" +
                   instead(options.mode, quant::mode_names(*format)));
  }
  spec.mode = *mode;
  const auto scope = quant::parse_scope(options.scope);
  if (!scope || *scope == quant::Scope::fixed)  // a weight needs no calibration
    throw BadInput("--scope: there is no scope '" + options.scope + "'" + instead(options.scope, {"tensor", "row"}));
  spec.scope = *scope;
  const auto rounding = quant::parse_rounding(options.rounding);
  if (!rounding)
    throw BadInput("--rounding: there is no rounding '" + options.rounding + "'" +
                   instead(options.rounding, {"nearest_even", "stochastic"}));
  spec.rounding = *rounding;
  spec.seed = options.seed;
  spec.tiles = options.tiles;
  if (const auto wrong = quant::objection(spec, options.axis); !wrong.empty())
    throw BadInput("--mode " + std::string(quant::name(spec.mode)) + " --axis " + std::to_string(options.axis) + ": " +
                   std::string(wrong) + "; leave out " +
                   (spec.scope == quant::Scope::row ? "--scope" : spec.tiles ? "--tiles" : "--rounding"));
  return spec;
}

// ---- what is printed ----

Json figures(const ErrorStats& stats) {
  Json json{{"sqnr_db", stats.sqnr_db()},  // infinite, without any error, it becomes null
            {"relative_rms", stats.relative_rms()},
            {"mean_relative", stats.relative_abs()},
            {"cosine", stats.cosine()},
            {"dead_share", stats.dead_share()},
            {"saturated_share", stats.saturated_share()},
            {"elements", stats.count + stats.non_finite},
            {"non_finite", stats.non_finite}};
  return json;
}

void print_row(int width, const std::string& name, const std::string& shape, const std::string& dtype, const ErrorStats& s) {
  std::printf("%-*s  %14s  %5s  %7.2f  %8.5f  %8.5f  %7.4f%%  %7.4f%%\n", width, name.c_str(), shape.c_str(), dtype.c_str(),
              s.sqnr_db(), s.relative_rms(), s.relative_abs(), 100 * s.dead_share(), 100 * s.saturated_share());
  if (s.non_finite > 0)
    std::printf("%-*s  %lld elements are NaN or infinite, before or after\n", width, "", static_cast<long long>(s.non_finite));
  std::fflush(stdout);
}

void add(ErrorStats& sum, const ErrorStats& s) {
  sum.sum_x2 += s.sum_x2;
  sum.sum_dq2 += s.sum_dq2;
  sum.sum_x_dq += s.sum_x_dq;
  sum.sum_err2 += s.sum_err2;
  sum.sum_abs += s.sum_abs;
  sum.sum_abs_err += s.sum_abs_err;
  sum.count += s.count;
  sum.dead += s.dead;
  sum.saturated += s.saturated;
  sum.non_finite += s.non_finite;
}

void quantize(const Options& options) {
  quant::QuantizeOptions chosen;
  chosen.spec = spec_of(options);
  chosen.axis = options.axis;
  chosen.pack = options.pack;
  std::vector<Regex> includes, excludes;
  for (const std::string& pattern : options.tensors) includes.emplace_back("--tensor", pattern);
  for (const std::string& pattern : options.excludes) excludes.emplace_back("--exclude", pattern);
  // Each expression is asked, so that one that matches nothing is found.
  const auto any = [](std::vector<Regex>& list, const std::string& name) {
    return std::count_if(list.begin(), list.end(), [&](Regex& regex) { return regex.matches(name); }) > 0;
  };
  if (!includes.empty()) chosen.include = [&](const std::string& name) { return any(includes, name); };
  if (!excludes.empty()) chosen.exclude = [&](const std::string& name) { return any(excludes, name); };

  std::unique_ptr<quant::QuantizeModel> model;
  std::string refusal;
  try {
    model = std::make_unique<quant::QuantizeModel>(options.in, options.out, chosen);
  } catch (const std::runtime_error& error) {
    refusal = error.what();
  }
  // The likelier cause first: an expression that matches nothing leaves nothing to quantize.
  const bool asked = model || refusal.find("no tensor to quantize") != std::string::npos;
  for (const auto* list : {&includes, &excludes})
    for (const Regex& regex : *list)
      if (asked && !regex.used())
        throw BadInput(options.in.string() + ": " + regex.name() + " matches none of its " +
                       (list == &includes ? "tensors" : "tensors to be quantized") +
                       "; the names are those of the file, such as 'model.layers.0.mlp.up_proj.weight'");
  if (!model) throw BadInput(refusal);

  int width = 6;
  for (const TensorReport& tensor : model->tensors()) width = std::max(width, static_cast<int>(tensor.name.size()));
  if (!options.json)
    std::printf("%-*s  %14s  %5s  %7s  %8s  %8s  %8s  %8s\n", width, "tensor", "shape", "dtype", "SQNR dB", "rel. RMS",
                "mean rel", "dead", "satur.");
  model->run([&](const TensorReport& tensor) {
    if (!options.json)
      print_row(width, tensor.name, std::to_string(tensor.rows) + " x " + std::to_string(tensor.cols), tensor.dtype,
                tensor.stats);
  });

  ErrorStats all;
  for (const TensorReport& tensor : model->tensors()) add(all, tensor.stats);
  const bool assay_layout = options.pack && model->layout() == quant::Layout::assay;
  if (!options.json) {
    print_row(width, "all", std::to_string(model->tensors().size()) + " tensors", "", all);
    std::printf("%s: %s %s, axis %d%s; %lld tensors as they were\n", options.out.c_str(),
                std::string(quant::name(chosen.spec.format)).c_str(), std::string(quant::name(chosen.spec.mode)).c_str(),
                options.axis, options.pack ? ", packed" : "", static_cast<long long>(model->kept()));
    if (assay_layout)
      std::printf("compressed-tensors cannot load it: %s; assay can\n", model->why_not_compressed_tensors().c_str());
    return;
  }
  Json json{{"in", options.in.string()},
            {"out", options.out.string()},
            {"format", quant::name(chosen.spec.format)},
            {"mode", quant::name(chosen.spec.mode)},
            {"axis", options.axis},
            {"scope", options.scope},
            {"rounding", options.rounding},
            {"seed", chosen.spec.rounding == quant::Rounding::stochastic ? Json(options.seed) : Json(nullptr)},
            {"tiles", options.tiles},
            {"layout", !options.pack ? Json(nullptr) : Json(assay_layout ? "assay" : "compressed-tensors")},
            {"kept", model->kept()},
            {"tensors", Json::array()}};
  for (const TensorReport& tensor : model->tensors()) {
    Json row{{"name", tensor.name}, {"shape", {tensor.rows, tensor.cols}}, {"dtype", tensor.dtype}};
    row.update(figures(tensor.stats));
    json["tensors"].push_back(row);
  }
  json["all"] = figures(all);
  std::printf("%s\n", json.dump(2).c_str());
}

}  // namespace

void add_quantize(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand(
      "quantize", "a fake-quantized copy of a model, or a packed one, and the error of each tensor");
  auto options = std::make_shared<Options>();
  verb->add_option("IN", options->in, "a .safetensors file, or a model folder (whose other files are copied)")->required();
  verb->add_option("OUT", options->out, "what to write; must not exist")->required();
  verb->add_option("--format", options->format, "nvfp4 or mxfp4")->capture_default_str();
  verb->add_option("--mode", options->mode,
                   "nvfp4: " + joined(quant::mode_names(quant::Format::nvfp4)) + "; mxfp4: " +
                       joined(quant::mode_names(quant::Format::mxfp4)) + " (default: the first)");
  verb->add_option("--axis", options->axis, "along which blocks run: 1 in_features, 0 out_features")
      ->check(CLI::IsMember({0, 1}))
      ->capture_default_str();
  verb->add_option("--scope", options->scope, "what a tensor scale is taken over: tensor or row")->capture_default_str();
  verb->add_option("--rounding", options->rounding, "nearest_even or stochastic")->capture_default_str();
  verb->add_option("--seed", options->seed, "of stochastic rounding")->capture_default_str();
  verb->add_flag("--tiles", options->tiles, "nvfp4: 16 x 16 tiles share a scale, instead of blocks along an axis");
  verb->add_option("--tensor", options->tensors,
                   "REGEX: quantize the tensors whose names it matches, instead of the default; may be repeated")
      ->allow_extra_args(false);
  verb->add_option("--exclude", options->excludes, "REGEX: leave out tensors whose names it matches; may be repeated")
      ->allow_extra_args(false);
  verb->add_flag("--pack", options->pack, "store codes and scales, as compressed-tensors does, instead of the values");
  verb->add_flag("--json", options->json, "the figures as JSON");
  verb->footer("By default the 2-D tensors called MODULE.weight are quantized, but for modules called\n" +
               joined(quant::unquantized_modules()) + ".");
  verb->callback([options, &exit_code] {
    quantize(*options);
    exit_code = exit_finished;
  });
}

}  // namespace assay::train

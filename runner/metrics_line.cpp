#include "runner/metrics_line.h"

#include <limits>
#include <nlohmann/json.hpp>

namespace assay::runner {
namespace {

using nlohmann::json;

constexpr int kDeepest = 64;

// Receives what nlohmann's parser finds, piece by piece.
class Handler {
 public:
  using number_integer_t = json::number_integer_t;
  using number_unsigned_t = json::number_unsigned_t;
  using number_float_t = json::number_float_t;
  using string_t = json::string_t;
  using binary_t = json::binary_t;

  explicit Handler(MetricsLine& out) : out_(out) {}

  bool key(string_t& name) {
    if (depth_ == 1) {
      place_ = name == "step" ? Place::step : name == "time" ? Place::time : name == "metrics" ? Place::metrics : Place::other;
    } else if (depth_ == 2 && in_metrics_) {
      if (name.size() > kLongestKey) return wrong("the name of a metric is longer than 500 bytes");
      if (out_.count == kMostMetrics) return wrong("it holds more than 10000 metrics");
      if (out_.count == out_.values.size()) out_.values.emplace_back();
      out_.values[out_.count].key.assign(name);
    }
    return true;
  }
  bool number_integer(number_integer_t value) {
    if (depth_ == 1 && place_ == Place::step) {
      out_.step = value;
      has_step_ = true;
      return value >= 0 || wrong("\"step\" is negative");
    }
    return number(static_cast<double>(value));
  }
  bool number_unsigned(number_unsigned_t value) {
    if (depth_ == 1 && place_ == Place::step) {
      if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
        return wrong("\"step\" is too large");
      return number_integer(static_cast<number_integer_t>(value));
    }
    return number(static_cast<double>(value));
  }
  bool number_float(number_float_t value, const string_t&) { return number(value); }
  bool string(string_t& word) {
    if (!at_metric()) return scalar();
    if (word == "nan") return number(std::numeric_limits<double>::quiet_NaN());
    if (word == "inf") return number(std::numeric_limits<double>::infinity());
    if (word == "-inf") return number(-std::numeric_limits<double>::infinity());
    return not_a_number("\"" + word.substr(0, 80) + "\"");
  }
  bool null() { return at_metric() ? not_a_number("null") : scalar(); }
  bool boolean(bool value) { return at_metric() ? not_a_number(value ? "true" : "false") : scalar(); }
  bool binary(binary_t&) { return false; }  // not of JSON

  bool start_object(std::size_t) {
    if (at_metric()) return not_a_number("an object");
    if (depth_ == 1 && place_ == Place::step) return wrong("\"step\" is no whole number");
    if (++depth_ > kDeepest) return wrong("it is nested too deeply");
    if (depth_ == 2 && place_ == Place::metrics) {
      in_metrics_ = has_metrics_ = true;
      out_.count = 0;
    }
    return true;
  }
  bool end_object() {
    if (--depth_ == 1) in_metrics_ = false;
    return true;
  }
  bool start_array(std::size_t) {
    if (depth_ == 0) return wrong("it is no object");
    if (at_metric()) return not_a_number("an array");
    if (!scalar()) return false;
    if (++depth_ > kDeepest) return wrong("it is nested too deeply");
    return true;
  }
  bool end_array() {
    --depth_;
    return true;
  }
  template <typename Error>
  bool parse_error(std::size_t, const std::string&, const Error& error) {
    torn_ = true;
    return wrong(error.what());
  }

  bool torn() const { return torn_; }
  std::string verdict() const {
    if (!why_.empty()) return why_;
    if (!has_step_) return "it has no \"step\"";
    return has_metrics_ ? "" : "it has no object \"metrics\"";
  }

 private:
  enum class Place { other, step, time, metrics };

  bool at_metric() const { return depth_ == 2 && in_metrics_; }
  bool wrong(const std::string& why) {
    why_ = why;
    return false;
  }
  bool not_a_number(const std::string& what) {
    return wrong("a metric is neither a number nor \"nan\", \"inf\" or \"-inf\": " + what);
  }
  // A value that is no number, where none of our own may be.
  bool scalar() {
    if (depth_ == 0) return wrong("it is no object");
    if (depth_ == 1 && place_ == Place::step) return wrong("\"step\" is no whole number");
    if (depth_ == 1 && place_ == Place::metrics) return wrong("\"metrics\" is no object");
    return true;
  }
  bool number(double value) {
    if (at_metric()) {
      out_.values[out_.count++].value = value;
      return true;
    }
    if (depth_ == 1 && place_ == Place::time) out_.time = value;
    return scalar();
  }

  MetricsLine& out_;
  int depth_ = 0;
  Place place_ = Place::other;
  bool in_metrics_ = false, has_step_ = false, has_metrics_ = false, torn_ = false;
  std::string why_;
};

}  // namespace

std::string read_metrics_line(std::string_view line, MetricsLine& out, bool& torn) {
  out.count = 0;
  out.time.reset();
  Handler handler(out);
  json::sax_parse(line.begin(), line.end(), &handler);
  torn = handler.torn();
  return handler.verdict();
}

}  // namespace assay::runner

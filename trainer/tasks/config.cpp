#include "trainer/tasks/config.h"

#include "support/toml.h"

#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "support/files.h"
#include "support/suggest.h"

namespace assay::train::tasks {
namespace {

std::string shown(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

// Collects every error of one file.
class Errors {
 public:
  explicit Errors(std::string file) : file_(std::move(file)) {}
  void add(const toml::source_region& where, const std::string& message) {
    std::ostringstream line;
    line << file_ << ':' << where.begin.line << ':' << where.begin.column << ": " << message;
    lines_.push_back(line.str());
  }
  void throw_if_any() const {
    if (lines_.empty()) return;
    std::string all;
    for (const std::string& line : lines_) all += (all.empty() ? "" : "\n") + line;
    throw std::runtime_error(all);
  }

 private:
  std::string file_;
  std::vector<std::string> lines_;
};

// One table: every key asked for is required, every other key is an error.
class Section {
 public:
  Section(Errors& errors, const toml::table& table, std::string name)
      : errors_(errors), table_(table), name_(std::move(name)) {}

  // The value, or `lo` when it is missing or wrong, which is then an error of the file.
  std::int64_t integer(std::string_view key, std::int64_t lo,
                       std::int64_t hi = std::numeric_limits<std::int64_t>::max()) {
    const toml::node* node = get(key);
    if (!node) return lo;
    const auto value = node->value_exact<std::int64_t>();
    if (value && *value >= lo && *value <= hi) return *value;
    const bool open = hi == std::numeric_limits<std::int64_t>::max();
    errors_.add(node->source(), label(key) + (value ? " is " + std::to_string(*value) : " is not an integer") +
                                    "; expected an integer" +
                                    (open ? " of at least " + std::to_string(lo)
                                          : " from " + std::to_string(lo) + " to " + std::to_string(hi)));
    return lo;
  }

  double number(std::string_view key, double lo, double hi) {
    const toml::node* node = get(key);
    if (!node) return lo;
    const auto value = node->is_number() ? node->value<double>() : std::nullopt;
    if (value && std::isfinite(*value) && *value >= lo && *value <= hi) return *value;
    errors_.add(node->source(), label(key) + (value ? " is " + shown(*value) : " is not a number") +
                                    "; expected a number from " + shown(lo) + " to " + shown(hi));
    return lo;
  }

  std::string text(std::string_view key) {
    const toml::node* node = get(key);
    if (!node) return {};
    const auto value = node->value_exact<std::string>();
    if (value && !value->empty()) return *value;
    errors_.add(node->source(), label(key) + " is not a text; expected a non-empty string");
    return {};
  }

  Section section(std::string_view key) {
    const toml::node* node = get(key);
    if (node && node->is_table()) return {errors_, *node->as_table(), std::string(key)};
    if (node) errors_.add(node->source(), label(key) + " is not a table; expected [" + std::string(key) + "]");
    static const toml::table nothing;
    Section empty(errors_, nothing, std::string(key));
    empty.silent_ = true;
    return empty;
  }

  std::vector<Section> sections(std::string_view key) {
    std::vector<Section> all;
    const toml::node* node = get(key);
    if (!node) return all;
    const toml::array* array = node->as_array();
    if (!array || array->empty() || !array->is_homogeneous(toml::node_type::table)) {
      errors_.add(node->source(), label(key) + " is not a list of tables; expected [[" + std::string(key) + "]]");
      return all;
    }
    for (const auto& entry : *array) all.emplace_back(errors_, *entry.as_table(), std::string(key));
    return all;
  }

  void error(std::string_view key, const std::string& message) {
    const toml::node* node = table_.get(key);
    if (!silent_) errors_.add(node ? node->source() : table_.source(), message);
  }

  // Call when every key has been asked for.
  void refuse_others() {
    for (const auto& [key, node] : table_) {
      bool known = false;
      for (const std::string& one : known_) known = known || key.str() == one;
      if (known) continue;
      errors_.add(node.source(), "unknown key '" + label(key.str()) + "'" + support::did_you_mean(key.str(), known_));
    }
  }

 private:
  const toml::node* get(std::string_view key) {
    known_.emplace_back(key);
    const toml::node* node = table_.get(key);
    if (!node && !silent_) errors_.add(table_.source(), label(key) + " is missing");
    return node;
  }
  std::string label(std::string_view key) const { return name_.empty() ? std::string(key) : name_ + '.' + std::string(key); }

  Errors& errors_;
  const toml::table& table_;
  std::string name_;
  std::vector<std::string> known_;
  bool silent_ = false;  // stands in for a table whose absence has been reported
};

}  // namespace

TaskConfig TaskConfig::read(const std::filesystem::path& file) {
  const std::string source = support::read_file(file);
  toml::table table;
  try {
    table = toml::parse(source, file.string());
  } catch (const toml::parse_error& error) {
    const auto where = error.source().begin;
    throw std::runtime_error(file.string() + ':' + std::to_string(where.line) + ':' + std::to_string(where.column) +
                             ": " + std::string(error.description()));
  }
  constexpr auto kMost = std::int64_t{1} << 40;
  Errors errors(file.string());
  Section root(errors, table, "");
  const auto folder = file.parent_path();
  TaskConfig config;
  config.file = file;

  Section problems = root.section("problems");
  config.problems.seed = static_cast<std::uint64_t>(problems.integer("seed", 0));
  config.problems.train = problems.integer("train", 1, kMost);
  config.problems.test = problems.integer("test", 1, kMost);
  problems.refuse_others();

  for (Section& topic : root.sections("topics")) {
    const std::string name = topic.text("name");
    for (const std::string& other : config.mixture.topics)
      if (!name.empty() && other == name) topic.error("name", "topic '" + name + "' is there twice");
    config.mixture.topics.push_back(name);
    config.mixture.wanted.push_back(topic.number("wanted", 0, 1));
    topic.refuse_others();
  }

  Section documents = root.section("documents");
  config.documents_seed = static_cast<std::uint64_t>(documents.integer("seed", 0));
  config.mixture.plain = documents.number("plain", 0, 1);
  config.mixture.bare = documents.number("bare", 0, 1);
  if (config.mixture.plain + config.mixture.bare > 1)
    documents.error("bare", "documents.plain + documents.bare is above 1; expected shares of one whole");
  documents.refuse_others();

  Section tokenizer = root.section("tokenizer");
  config.tokenizer = folder / tokenizer.text("folder");
  tokenizer.refuse_others();

  Section model = root.section("model");
  config.model.out = folder / model.text("out");
  config.model.hidden = model.integer("hidden", 1, 1 << 16);
  config.model.layers = model.integer("layers", 1, 1024);
  config.model.heads = model.integer("heads", 1, 1024);
  config.model.kv_heads = model.integer("kv_heads", 1, 1024);
  config.model.intermediate = model.integer("intermediate", 1, 1 << 18);
  config.model.max_positions = model.integer("max_positions", 1, 1 << 20);
  config.model.rope_theta = model.number("rope_theta", 1, 1e9);
  config.model.rms_eps = model.number("rms_eps", 1e-12, 1e-2);
  if (config.model.hidden % (2 * config.model.heads) != 0)
    model.error("heads", "model.heads does not divide model.hidden into even head sizes");
  if (config.model.heads % config.model.kv_heads != 0)
    model.error("kv_heads", "model.kv_heads does not divide model.heads");
  model.refuse_others();

  Section training = root.section("training");
  PretrainingConfig& t = config.training;
  t.seed = static_cast<std::uint64_t>(training.integer("seed", 0));
  t.steps = training.integer("steps", 1, kMost);
  t.batch = training.integer("batch", 1, 1 << 20);
  t.bucket = training.integer("bucket", 1, 1 << 10);
  t.lr = training.number("lr", 0, 1);
  t.warmup = training.integer("warmup", 0, kMost);
  t.final_lr = training.number("final_lr", 0, 1);
  t.beta1 = training.number("beta1", 0, 0.999999);
  t.beta2 = training.number("beta2", 0, 0.999999);
  t.eps = training.number("eps", 1e-16, 1);
  t.weight_decay = training.number("weight_decay", 0, 10);
  t.grad_clip = training.number("grad_clip", 1e-9, 1e9);
  t.prompt_weight = training.number("prompt_weight", 0, 1);
  t.threads = training.integer("threads", 1, 1024);
  training.refuse_others();

  root.refuse_others();
  errors.throw_if_any();
  return config;
}

}  // namespace assay::train::tasks

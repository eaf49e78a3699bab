#include "experiments/spec/series_file.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <sstream>

#include "support/suggest.h"

namespace assay::spec {

namespace {

// "; did you mean": a slip of the pen, or the one word that begins like this.
std::string suggest(const std::string& typed, const Strings& known) {
  std::string text = support::did_you_mean(typed, known);
  if (!text.empty() || typed.size() < 3) return text;
  for (const std::string& word : known) {
    if (!word.starts_with(typed)) continue;
    if (!text.empty()) return "";
    text = "; did you mean '" + word + "'?";
  }
  return text;
}

// One table of the file, its keys asked for by name; finish() then reports the keys nobody asked for.
class TableReader {
 public:
  TableReader(const TomlFile& file, const toml::table& table, std::string what, Diagnostics& wrong)
      : file_(file), table_(table), what_(std::move(what)), wrong_(wrong) {}

  Text text(const char* key) {
    Text result;
    result.mark = file_.mark(table_.source());
    if (const toml::node* node = take(key, result.mark)) {
      result.given = true;
      if (const auto* string = node->as_string()) {
        result.is_text = true;
        result.value = string->get();
      } else {
        complain(result.mark, key, "a string in quotes", *node);
      }
    }
    return result;
  }

  Text required_text(const char* key, const char* what_for) {
    Text result = text(key);
    if (!result.given) wrong_.push_back(at(result.mark, what_ + ": '" + key + "' is missing; " + what_for));
    return result;
  }

  std::optional<double> number(const char* key, double low, double high) {
    Mark mark;
    const toml::node* node = take(key, mark);
    if (!node) return std::nullopt;
    const std::optional<double> value = node->is_number() ? node->value<double>() : std::nullopt;
    if (value && std::isfinite(*value) && *value >= low && *value <= high) return value;
    std::ostringstream range;
    range << "a number from " << low << " to " << high;
    complain(mark, key, range.str(), *node);
    return std::nullopt;
  }

  // Strings; dates may be written as TOML dates.
  std::vector<std::string> texts(const char* key) {
    Mark mark;
    std::vector<std::string> result;
    const toml::node* node = take(key, mark);
    if (!node) return result;
    const toml::array* list = node->as_array();
    if (!list) {
      complain(mark, key, "a list of strings", *node);
      return result;
    }
    for (const toml::node& element : *list) {
      if (const auto* string = element.as_string()) {
        result.push_back(string->get());
      } else if (const auto* date = element.as_date()) {
        std::ostringstream text;
        text << date->get();
        result.push_back(text.str());
      } else {
        complain(file_.mark(element.source()), key, "a list of strings", element);
      }
    }
    return result;
  }

  const toml::table* table(const char* key) {
    Mark mark;
    const toml::node* node = take(key, mark);
    if (!node) return nullptr;
    if (!node->is_table()) complain(mark, key, "a table", *node);
    return node->as_table();
  }

  // [[key]]: the tables of a list, with their places.
  std::vector<const toml::table*> tables(const char* key) {
    Mark mark;
    std::vector<const toml::table*> result;
    const toml::node* node = take(key, mark);
    if (!node) return result;
    const std::string wanted = "[[" + std::string(key) + "]] with double brackets";
    const toml::array* list = node->as_array();
    if (!list) {
      complain(mark, key, wanted, *node);
      return result;
    }
    for (const toml::node& element : *list) {
      if (const toml::table* table = element.as_table()) result.push_back(table);
      else complain(file_.mark(element.source()), key, wanted, element);
    }
    return result;
  }

  const std::string& what() const { return what_; }

  void finish() {
    for (auto&& [key, node] : table_) {
      const std::string name(key.str());
      if (std::find(asked_.begin(), asked_.end(), name) != asked_.end()) continue;
      std::string message = what_ + ": unknown key '" + name + "'" + suggest(name, asked_);
      const Strings sections = section_names();
      if (find_field(name) || std::find(sections.begin(), sections.end(), name) != sections.end())
        message += "; config keys stand in [base] or in a run's change";
      wrong_.push_back(at(file_.mark(key.source()), std::move(message)));
    }
  }

 private:
  const toml::node* take(const char* key, Mark& mark) {
    asked_.emplace_back(key);
    const auto found = table_.find(key);
    if (found == table_.end()) return nullptr;
    mark = file_.mark(found->first.source());
    return &found->second;
  }

  void complain(const Mark& mark, const char* key, const std::string& wanted, const toml::node& node) {
    wrong_.push_back(at(mark, what_ + ": '" + key + "': wanted " + wanted + ", got " + describe(node)));
  }

  const TomlFile& file_;
  const toml::table& table_;
  std::string what_;
  Diagnostics& wrong_;
  std::vector<std::string> asked_;
};

// "; did you mean": the nearest key, or one whose last word is what was typed.
std::string suggest_key(const std::string& key) {
  const std::string nearest = suggest(key, field_keys());
  if (!nearest.empty()) return nearest;
  const std::string last = key.substr(key.rfind('.') + 1);
  Strings same, words;
  for (const Field& field : fields()) {
    const std::string word(field.key.substr(field.key.find('.') + 1));
    words.push_back(word);
  }
  const std::string word = support::nearest(last, words);
  if (word.empty()) return "";
  for (const Field& field : fields())
    if (field.key.substr(field.key.find('.') + 1) == word) same.emplace_back(field.key);
  std::string text = "; did you mean ";
  for (std::size_t i = 0; i < same.size(); ++i) text += (i ? " or '" : "'") + same[i] + "'";
  return text + "?";
}

// The setting; without its value where that was refused; nothing where the key is nobody's.
std::optional<Setting> check_setting(const std::string& key, const std::optional<Value>& value,
                                     const std::string& got, const Mark& mark, Diagnostics& wrong) {
  if (const auto why = not_implemented_key(key)) {
    wrong.push_back(at(mark, *why));
    return std::nullopt;
  }
  const Field* field = find_field(key);
  if (!field) {
    wrong.push_back(at(mark, "unknown key '" + key + "'" + suggest_key(key)));
    // Perhaps a slip for this one, which is then not known either.
    if (const Field* meant = find_field(support::nearest(key, field_keys()))) return Setting{meant, std::nullopt, mark};
    return std::nullopt;
  }
  if (!value) {
    wrong.push_back(at(mark, key + ": wanted " + field->expected() + ", got " + got));
    return Setting{field, std::nullopt, mark};
  }
  if (const auto why = not_implemented_value(key, *value)) {
    wrong.push_back(at(mark, *why));
    return Setting{field, std::nullopt, mark};
  }
  const auto taken = accept(*field, *value);
  if (const auto* refusal = std::get_if<Refusal>(&taken)) {
    wrong.push_back(at(mark, key + ": " + refusal->message));
    return Setting{field, std::nullopt, mark};
  }
  return Setting{field, std::get<Value>(taken), mark};
}

// Nested tables and dotted keys alike: { quant = { ste = true } }, { quant.ste = true }, { "quant.ste" = true }.
void read_settings(const TomlFile& file, const toml::table& table, const std::string& prefix,
                   std::vector<Setting>& settings, Diagnostics& wrong) {
  const Strings sections = section_names();
  for (auto&& [name, node] : table) {
    const std::string key = prefix.empty() ? std::string(name.str()) : prefix + "." + std::string(name.str());
    const Mark mark = file.mark(name.source());
    const bool section = std::find(sections.begin(), sections.end(), key) != sections.end();
    const bool within = std::any_of(fields().begin(), fields().end(), [&](const Field& field) {
      return field.key.size() > key.size() && field.key.starts_with(key) && field.key[key.size()] == '.';
    });
    if (within && node.is_table()) {
      read_settings(file, *node.as_table(), key, settings, wrong);
      continue;
    }
    if (section) {
      wrong.push_back(at(mark, "'" + key + "' is a table of keys: wanted " + key + ".NAME, got " + describe(node)));
      continue;
    }
    if (node.is_table() && !find_field(key) && !not_implemented_key(key)) {
      // An unknown section is one finding, not one for each of its keys.
      const std::string meant = prefix.empty() ? suggest(key, sections) : suggest_key(key);
      wrong.push_back(at(mark, "unknown key '" + key + "'" + meant));
      const std::string section_meant = support::nearest(key, sections) + ".";
      for (const Field& field : fields())
        if (field.key.starts_with(section_meant)) settings.push_back({&field, std::nullopt, mark});
      continue;
    }
    const auto setting = check_setting(key, to_value(node), describe(node), mark, wrong);
    if (!setting) continue;
    const auto former = std::find_if(settings.begin(), settings.end(),
                                     [&](const Setting& s) { return s.field == setting->field; });
    if (former != settings.end() && former->value && setting->value)
      wrong.push_back(at(mark, "'" + key + "' is set twice in one table"));
    else
      settings.push_back(*setting);
  }
}

// Ids become names of folders.
void check_id(const Text& id, const std::string& what, Diagnostics& wrong) {
  const auto lower_or_digit = [](unsigned char c) { return (c >= 'a' && c <= 'z') || std::isdigit(c); };
  const std::string& s = id.value;
  const bool good = !s.empty() && s.size() <= 100 && lower_or_digit(static_cast<unsigned char>(s[0])) &&
                    std::all_of(s.begin(), s.end(), [&](unsigned char c) {
                      return lower_or_digit(c) || c == '.' || c == '_' || c == '-';
                    });
  if (id.is_text && !good)
    wrong.push_back(at(id.mark, what + ": bad id " + as_json(s) +
                                    "; wanted at most 100 of a-z 0-9 . _ - starting with a letter or a digit"));
}

RunEntry read_run(const TomlFile& file, const toml::table& table, TableReader& reader, Diagnostics& wrong) {
  RunEntry run;
  run.mark = file.mark(table.source());
  run.id = reader.required_text("id", "every run has one");
  check_id(run.id, reader.what(), wrong);
  run.title = reader.text("title").value;
  run.hypothesis = reader.text("hypothesis").value;
  run.base = reader.text("base");
  if (const toml::table* change = reader.table("change")) read_settings(file, *change, "", run.change, wrong);
  run.change_in_words = reader.text("change_in_words").value;
  run.baseline = reader.text("baseline");
  if (const toml::table* figures = reader.table("published")) {
    TableReader published(file, *figures, "published", wrong);
    run.published.first = published.number("first", 0, 100);
    run.published.last = published.number("last", 0, 100);
    published.finish();
  }
  run.verdict = reader.text("verdict").value;
  run.conclusion = reader.text("conclusion").value;
  return run;
}

void read_single(SeriesFile& file, Diagnostics& wrong) {
  TableReader reader(file.toml, file.toml.root, "a file of one run", wrong);
  RunEntry run = read_run(file.toml, file.toml.root, reader, wrong);
  run.mark = run.id.mark;
  if (!run.base.given)
    wrong.push_back(at(run.mark, "a file of one run: 'base' is missing; it names what the run builds on, "
                                 "such as \"e13/e13g-nvfp4\""));
  file.goal = reader.text("goal").value;
  file.notes = reader.text("notes").value;
  file.dates = reader.texts("dates");
  file.next_steps = reader.texts("next_steps");
  reader.finish();
  file.id = run.id;
  file.title = run.title;
  file.runs.push_back(std::move(run));
}

void read_series_table(SeriesFile& file, TableReader& root, Diagnostics& wrong) {
  const toml::table* table = root.table("series");
  if (!table) {
    if (!file.toml.root.contains("series"))
      wrong.push_back(at(file.toml.mark(file.toml.root.source()), "[series] is missing; it holds the series' id"));
    return;
  }
  TableReader reader(file.toml, *table, "[series]", wrong);
  file.id = reader.required_text("id", "a series is known by it");
  check_id(file.id, "[series]", wrong);
  file.base = reader.text("base");
  file.title = reader.text("title").value;
  file.goal = reader.text("goal").value;
  file.notes = reader.text("notes").value;
  file.dates = reader.texts("dates");
  file.next_steps = reader.texts("next_steps");
  file.success_accuracy = reader.number("success_accuracy", 0, 100);
  file.cause_margin = reader.number("cause_margin", 0, 1);
  reader.finish();
}

void check_duplicates(const SeriesFile& file, Diagnostics& wrong) {
  std::map<std::string, int> lines;
  const auto check = [&](const Text& text, const std::string& what) {
    if (!text.is_text) return;
    const auto [first, fresh] = lines.emplace(text.value, text.mark.line);
    if (!fresh)
      wrong.push_back(at(text.mark, "duplicate " + what + " '" + text.value + "'; line " +
                                        std::to_string(first->second) + " has it already"));
  };
  for (const RunEntry& run : file.runs) check(run.id, "id");
  lines.clear();
  for (const CauseEntry& cause : file.causes) check(cause.name, "cause");
}

void read_series(SeriesFile& file, Diagnostics& wrong) {
  TableReader root(file.toml, file.toml.root, "a series file", wrong);
  read_series_table(file, root, wrong);
  if (const toml::table* base = root.table("base")) read_settings(file.toml, *base, "", file.settings, wrong);
  for (const toml::table* table : root.tables("run")) {
    TableReader reader(file.toml, *table, "[[run]]", wrong);
    file.runs.push_back(read_run(file.toml, *table, reader, wrong));
    reader.finish();
  }
  for (const toml::table* table : root.tables("cause")) {
    TableReader reader(file.toml, *table, "[[cause]]", wrong);
    CauseEntry cause;
    cause.name = reader.required_text("name", "wanted such as \"batch size\"");
    cause.run = reader.required_text("run", "the run with the cause changed");
    cause.against = reader.required_text("against", "the run it is compared with");
    cause.note = reader.text("note").value;
    reader.finish();
    file.causes.push_back(std::move(cause));
  }
  root.finish();
  if (!file.toml.root.contains("run"))
    wrong.push_back({file.toml.path.string(), 0, 0, "the series has no run; wanted at least one [[run]]"});
  check_duplicates(file, wrong);
}

}  // namespace

SeriesFile read_series_file(TomlFile toml, Diagnostics& wrong) {
  SeriesFile file;
  file.toml = std::move(toml);
  const toml::table& root = file.toml.root;
  const toml::node* base = root.get("base");
  file.single = !root.contains("series") && !root.contains("run") && !root.contains("cause") &&
                (root.contains("id") || (base && base->is_string()));
  if (file.single) read_single(file, wrong);
  else read_series(file, wrong);
  return file;
}

std::optional<Setting> read_override(const Override& option, Diagnostics& wrong) {
  Mark mark;
  mark.file = "--set " + option.key + "=" + option.value;
  mark.folder = std::filesystem::current_path();
  Value value = parse_bare_value(option.value);
  const Field* field = find_field(option.key);
  // A shell eats quotes, so text that happens to look like a number is still text where text is asked for.
  if (field && std::holds_alternative<std::string>(field->get(Config{})) && !std::holds_alternative<std::string>(value))
    value = option.value;
  auto setting = check_setting(option.key, value, "", mark, wrong);
  if (setting && !setting->value) setting.reset();
  return setting;
}

}  // namespace assay::spec

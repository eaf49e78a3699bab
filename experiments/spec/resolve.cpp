#include "experiments/spec/resolve.h"

#include <algorithm>

#include "experiments/spec/canonical.h"
#include "support/looks.h"
#include "support/suggest.h"

namespace assay::spec {

namespace fs = std::filesystem;

namespace {
constexpr int deepest_chain = 100;
}

void Settled::apply(const std::vector<Setting>& settings) {
  for (const Setting& setting : settings) {
    Mark mark = setting.mark;
    mark.layer = layer;
    marks.insert_or_assign(setting.field->key, std::move(mark));
    if (setting.value) {
      setting.field->set(config, *setting.value);
      unknown.erase(setting.field->key);
    } else {
      unknown.insert(setting.field->key);
    }
  }
  ++layer;
}

std::string Settled::absolute(std::string_view key) const {
  const std::string written = std::get<std::string>(find_field(key)->get(config));
  if (written.empty()) return "";
  const auto mark = marks.find(key);
  const fs::path folder = mark == marks.end() ? fs::current_path() : mark->second.folder;
  fs::path path = (folder / written).lexically_normal();
  if (!path.has_filename() && path.has_relative_path()) path = path.parent_path();  // "model/" is "model"
  return path.string();
}

std::map<std::string, std::string> differences(const Settled& before, const Settled& after) {
  const auto whole_mode = [](const QuantConfig& quant) {
    return quant.mode.empty() || quant.format == "none" ? default_mode(quant.format) : quant.mode;
  };
  std::map<std::string, std::string> changed;
  const QuantConfig &old_quant = before.config.quant, &new_quant = after.config.quant;
  for (const Field& field : fields()) {
    std::string old_text = as_json(field.get(before.config)), new_text = as_json(field.get(after.config));
    if (field.rule.kind == Rule::Kind::path) {
      const std::string old_path = before.absolute(field.key), new_path = after.absolute(field.key);
      if (old_path == new_path) continue;
      if (old_text == new_text) old_text = as_json(old_path), new_text = as_json(new_path);
    } else if (field.key == "quant.mode") {
      const std::string old_mode = whole_mode(old_quant), new_mode = whole_mode(new_quant);
      if (old_mode == new_mode) continue;
      if (old_quant.format != new_quant.format && old_mode == default_mode(old_quant.format) &&
          new_mode == default_mode(new_quant.format))
        continue;
      old_text = as_json(old_mode), new_text = as_json(new_mode);
    } else if (old_text == new_text) {
      continue;
    }
    changed.emplace(field.key, old_text + " -> " + new_text);
  }
  return changed;
}

Reference split_reference(const std::string& text) {
  const std::size_t slash = text.rfind('/');
  if (text.ends_with(".toml") || slash == std::string::npos) return {text, ""};
  return {text.substr(0, slash), text.substr(slash + 1)};
}

// Works out the configs of one book.
class Inheritance {
 public:
  Inheritance(Library& library, Book& book) : library_(library), wrong_(library.wrong_), book_(book) {}

  void settle() {
    const SeriesFile& file = book_.file;
    for (std::size_t i = 0; i < file.runs.size(); ++i) book_.index.emplace(file.runs[i].id.value, i);
    book_.runs.resize(file.runs.size());
    state_.assign(file.runs.size(), State::fresh);
    book_.base.emplace();
    if (file.base.given) book_.base = file.base.is_text ? outside(file.base) : std::nullopt;
    if (book_.base) book_.base->apply(file.settings);
    for (std::size_t i = 0; i < file.runs.size(); ++i) settle_run(i);
    // A baseline may stand in a series that is named only there.
    for (const RunEntry& run : file.runs)
      if (const Reference to = split_reference(run.baseline.value); !to.run.empty() && to.series != file.id.value)
        open(to.series, run.baseline.mark);
  }

 private:
  enum class State : std::uint8_t { fresh, open, done };

  void settle_run(std::size_t i) {
    if (state_[i] == State::done) return;
    const RunEntry& run = book_.file.runs[i];
    state_[i] = State::open;
    chain_.push_back(i);
    std::optional<Settled> from;
    if (run.base.is_text) from = base_of(run);
    else if (!run.base.given && !book_.file.single) from = book_.base;
    chain_.pop_back();
    state_[i] = State::done;
    if (!from) return;
    from->apply(run.change);
    book_.runs[i] = std::move(from);
  }

  std::optional<Settled> base_of(const RunEntry& run) {
    const Text& base = run.base;
    const Reference to = split_reference(base.value);
    const bool own_series = to.series == book_.file.id.value;
    const std::string& own_id = own_series && !to.run.empty() ? to.run : base.value;
    if (const auto found = book_.index.find(own_id); found != book_.index.end()) return own(found->second, base);
    if (own_series && to.run.empty() && !book_.file.single) return book_.base;
    if (own_series) {
      report(base.mark, "base '" + base.value + "': there is no such run here" + suggest_own(to.run));
      return std::nullopt;
    }
    return outside(base);
  }

  std::optional<Settled> own(std::size_t i, const Text& base) {
    if (state_[i] == State::open) {
      std::string circle;
      for (auto step = std::find(chain_.begin(), chain_.end(), i); step != chain_.end(); ++step)
        circle += book_.file.runs[*step].id.value + " -> ";
      report(base.mark, "circular base: " + circle + base.value);
      return std::nullopt;
    }
    if (chain_.size() >= deepest_chain) {
      report(base.mark, "more than " + std::to_string(deepest_chain) + " runs build on each other");
      return std::nullopt;
    }
    settle_run(i);
    return book_.runs[i];
  }

  // A base in another series.
  std::optional<Settled> outside(const Text& base) {
    const Reference to = split_reference(base.value);
    Book* book = open(to.series, base.mark);
    if (!book) return std::nullopt;
    if (to.run.empty()) {
      if (!book->file.single) return book->base;
      return book->runs.empty() ? std::nullopt : book->runs.front();
    }
    const auto found = book->index.find(to.run);
    if (found != book->index.end()) return book->runs[found->second];
    Strings ids;
    for (const auto& [id, unused] : book->index) ids.push_back(id);
    report(base.mark, "base '" + base.value + "': series '" + to.series + "' has no run '" + to.run + "'" +
                          support::did_you_mean(to.run, ids));
    return std::nullopt;
  }

  // A path is relative to this file; an id is looked up.
  Book* open(const std::string& series, const Mark& mark) {
    if (const auto known = book_.named.find(series); known != book_.named.end()) return known->second;
    Book*& book = book_.named[series];
    fs::path path;
    if (series.ends_with(".toml")) {
      path = fs::path(series).is_absolute() ? fs::path(series) : (book_.file.toml.path.parent_path() / series);
      path = path.lexically_normal();
    } else {
      auto found = resolve_series(series);
      if (auto* missing = std::get_if<Diagnostic>(&found)) {
        const std::string hint = suggest_own(series);
        report(mark, "'" + series + "' is neither a run of this file nor a series" +
                         (hint.empty() ? "; " + missing->message : hint));
        return nullptr;
      }
      path = std::get<fs::path>(std::move(found));
    }
    book = library_.open(path, &mark);
    if (book && std::find(book_.bases.begin(), book_.bases.end(), book) == book_.bases.end())
      book_.bases.push_back(book);
    return book;
  }

  std::string suggest_own(const std::string& id) const {
    Strings ids;
    for (const RunEntry& run : book_.file.runs) ids.push_back(run.id.value);
    return support::did_you_mean(id, ids);
  }

  void report(const Mark& mark, std::string message) { wrong_.push_back(at(mark, std::move(message))); }

  Library& library_;
  Diagnostics& wrong_;
  Book& book_;
  std::vector<State> state_;
  std::vector<std::size_t> chain_;
};

Book* Library::open(const fs::path& path, const Mark* from) {
  const fs::path key = support::canonical_or_same(path);
  if (std::find(reading_.begin(), reading_.end(), key) != reading_.end()) {
    std::string circle;
    for (auto step = std::find(reading_.begin(), reading_.end(), key); step != reading_.end(); ++step)
      circle += step->filename().string() + " -> ";
    wrong_.push_back(at(*from, "circular base: " + circle + key.filename().string()));
    return nullptr;
  }
  if (const auto known = by_path_.find(key); known != by_path_.end()) return known->second;
  auto loaded = load_toml(path);
  if (auto* failure = std::get_if<Diagnostic>(&loaded)) {
    // A file that cannot be read at all is the mistake of whoever names it.
    if (from && failure->line == 0) *failure = at(*from, failure->text());
    wrong_.push_back(std::move(*failure));
    return by_path_[key] = nullptr;
  }
  auto book = std::make_unique<Book>();
  book->file = read_series_file(std::get<TomlFile>(std::move(loaded)), wrong_);
  Book* settled = book.get();
  by_path_[key] = settled;
  books_.push_back(std::move(book));
  reading_.push_back(key);
  Inheritance(*this, *settled).settle();
  reading_.pop_back();
  return settled;
}

}  // namespace assay::spec

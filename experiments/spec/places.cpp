// Where series lie, and what must lie on this machine to run one.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>

#include "experiments/spec/derived.h"
#include "experiments/spec/series.h"
#include "experiments/spec/shapes.h"
#include "support/looks.h"
#include "support/suggest.h"

namespace assay::spec {

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> places() {
  std::vector<fs::path> folders{"experiments"};
  if (const char* list = std::getenv("ASSAY_EXPERIMENTS")) {
    const std::string text = list;
    for (std::size_t start = 0; start <= text.size();) {
      const std::size_t end = std::min(text.find(':', start), text.size());
      if (end > start) folders.emplace_back(text.substr(start, end - start));
      start = end + 1;
    }
  }
  folders.emplace_back(ASSAY_EXPERIMENTS_FOLDER);
  return folders;
}

// The command that makes or fetches what is missing; known by the exact name of its folder.
struct Source {
  const char* name;
  const char* how;
};
constexpr auto model_sources = std::to_array<Source>({
    {"smollm2-135m-instruct", "type `make smollm2`"},
    {"Qwen2.5-1.5B-Instruct", "put the Hugging Face folder Qwen/Qwen2.5-1.5B-Instruct there, or set model.path"},
});
constexpr auto data_sources = std::to_array<Source>({
    {"gsm8k", "put GSM8K's train.jsonl and test.jsonl there (github.com/openai/grade-school-math, MIT), or set data.train "
              "and data.test"},
});

template <std::size_t N>
std::string how_to_get(const std::array<Source, N>& sources, const fs::path& name, const char* otherwise) {
  for (const Source& source : sources)
    if (name == source.name) return source.how;
  return otherwise;
}

bool program_exists(const std::string& program) {
  if (program.find('{') != std::string::npos) return true;  // known only when the run starts
  if (program.find('/') != std::string::npos) return !fs::path(program).is_absolute() || support::may_execute(program);
  const char* path = std::getenv("PATH");
  const std::string text = path ? path : "";
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(':', start), text.size());
    if (support::may_execute(fs::path(text.substr(start, end - start)) / program)) return true;
    start = end + 1;
  }
  return false;
}

}  // namespace

std::variant<fs::path, Diagnostic> resolve_series(const std::string& name) {
  const fs::path path = name;
  if (name.ends_with(".toml")) {
    if (const auto type = support::type_at(path); type != fs::file_type::not_found && type != fs::file_type::none) return path;
    return Diagnostic{name, 0, 0, "no such file"};
  }
  if (name.find('/') != std::string::npos) {
    // The folder of a series, as a shell completes it.
    const fs::path folder = path.has_filename() ? path : path.parent_path();
    const fs::path inside = folder / (folder.filename().string() + ".toml");
    if (support::is_file_at(inside)) return inside;
    return Diagnostic{name, 0, 0, "no such series; wanted a .toml file, a folder that holds one of its own name, or an id"};
  }
  if (!name.empty())
    for (const fs::path& folder : places())
      for (const fs::path& file : {folder / name / (name + ".toml"), folder / (name + ".toml")})
        if (support::is_file_at(file)) return file;
  std::string message = "no such series; there are ";
  const std::vector<std::string> known = list_series();
  for (std::size_t i = 0; i < known.size(); ++i) message += (i ? ", " : "") + known[i];
  if (known.empty()) message = "no such series; no folder of series was found";
  return Diagnostic{name, 0, 0, message + support::did_you_mean(name, known)};
}

fs::path find_shape(const std::string& model) {
  for (const fs::path& folder : places())
    if (support::is_file_at(folder / "shapes" / model / "config.json")) return fs::absolute(folder / "shapes" / model).lexically_normal();
  return {};
}

std::vector<std::string> list_series() {
  support::look_cannot_be_kept();
  std::set<std::string> ids;
  for (const fs::path& folder : places()) {
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
      const fs::path& path = entry->path();
      if (support::is_file_at(path) && path.extension() == ".toml") ids.insert(path.stem().string());
      if (support::is_file_at(path / (path.filename().string() + ".toml"))) ids.insert(path.filename().string());
    }
  }
  return {ids.begin(), ids.end()};
}

std::string missing_to_run(const Config& config, const Derived& derived) {
  std::string missing;
  const auto add = [&](const std::string& what) { missing += (missing.empty() ? "" : "; ") + what; };
  if (config.trainer.kind == "command") {
    const std::string program = config.trainer.argv.empty() ? "" : config.trainer.argv.front();
    if (!program_exists(program)) add("the program " + program + " is not there or not executable: correct trainer.argv");
    return missing;
  }
  const fs::path model = derived.model_path;
  if (!support::is_folder_at(model))
    add("the model folder " + model.string() + " is not there: " +
        how_to_get(model_sources, model.filename(), "put the model there, or set model.path"));
  else if (const ModelFacts facts = read_model_facts(model); !facts.problem.empty())
    add(facts.problem);
  std::vector<fs::path> absent;
  for (const std::string& data : {derived.train_path, derived.test_path})
    if (!support::is_file_at(data)) absent.emplace_back(data);
  if (!absent.empty())
    add((absent.size() == 2 ? "the data files " + absent[0].string() + " and " + absent[1].string() + " are"
                            : "the data file " + absent[0].string() + " is") +
        " not there: " +
        how_to_get(data_sources, absent[0].parent_path().filename(), "put the data there, or set data.train and data.test"));
  return missing;
}

}  // namespace assay::spec

// What users call runs by: a number (17), a run id (e13g-nvfp4: the latest of that id), series/run, or a whole series.
#pragma once

#include <string>
#include <vector>

#include "registry/registry.h"

namespace assay::runner {

// The latest run of each (run id, seed) of a series, in the order of their numbers.
std::vector<registry::RunRow> latest_of_series(const registry::Registry& registry, const std::string& series);

// The runs meant, each once, in the order given. A run id means its latest run; a series means the latest run of each
// (run id, seed). Throws UserError (kNoSuchRun) that says what there is.
std::vector<registry::RunRow> select_runs(const registry::Registry& registry, const std::vector<std::string>& words);

// As select_runs, for exactly one run.
registry::RunRow select_one(const registry::Registry& registry, const std::string& word);

// Their numbers; none for no words.
std::vector<std::int64_t> numbers_of(const registry::Registry& registry, const std::vector<std::string>& words);

// True when `word` names `id`: the id itself, or all of it up to one of its dashes ("e13g" names "e13g-nvfp4").
bool names_run(const std::string& word, const std::string& id);

// A run's number, if that is what the word is: "17", "#17".
std::optional<std::int64_t> as_number(const std::string& word);

}  // namespace assay::runner

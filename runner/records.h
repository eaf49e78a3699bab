// Records: what people, a series file and `assay verify` say about a series, a run id or a run. docs/run-folder.md has
// the form of a line of records.jsonl.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/paths.h"

namespace assay::runner {

constexpr std::size_t kLongestRecord = 64 << 10;   // bytes of its text

nlohmann::json to_json(const registry::Record& record);          // all of it, as --json prints it and the socket carries it
registry::Record record_from_json(const nlohmann::json& json);   // throws nlohmann::json::exception, std::invalid_argument

// Appends each to its records.jsonl and syncs that, then puts it into the registry; returns them with their versions.
// Holds the registry's write lock meanwhile, so that versions follow the order of the lines whoever else writes.
// Throws std::invalid_argument when a record is about nothing there is, or too long; nothing has been written then.
std::vector<registry::Record> append_records(const Paths& paths, registry::Registry& registry,
                                             std::vector<registry::Record> records);

// Takes what the registry does not have yet of FOLDER/records.jsonl (run 0: a series' folder). Returns how many whole
// lines are no records; those are passed over.
int take_records(registry::Registry& registry, const std::filesystem::path& folder, const std::string& series,
                 std::int64_t run);

// Records what the series file says (hypotheses, verdicts, conclusions, causes), as far as it is new or has changed.
void record_series_file(const Paths& paths, registry::Registry& registry, const registry::SeriesRow& series, double now);

// What WHAT names: a series, or a run (`any_seed`: its id in its series, whatever the seed). Only series, run and run_id
// are set. Throws UserError.
registry::Record record_about(const registry::Registry& registry, const std::string& word, bool any_seed);
// Sends records to the daemon, which writes them; returns them with their versions.
std::vector<registry::Record> send_records(const Paths& paths, const std::vector<registry::Record>& records);

// "run 17 e13g-nvfp4 s1", "series e13", "e13/e13g-nvfp4"
std::string about(const registry::Registry& registry, const registry::Record& record);
// A table, oldest first; `all`: former versions and what was taken back, too.
std::string records_text(const registry::Registry& registry, const std::vector<registry::Record>& records, bool all);

}  // namespace assay::runner

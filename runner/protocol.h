// What the command line and the daemon say to each other: one JSON object a line, a reply for each request, in order.
//
//   {"protocol": 1, "op": "status"}                       -> {"ok": true, "pid", "slots", "used", "waits": {"17": "…"}, …}
//   {"protocol": 1, "op": "submit", "series", "runs", …}  -> {"ok": true, "numbers": [17, 18]}
//     with "keep": true                                   -> also "kept": 3, where the daemon keeps it for a while; then
//   {"protocol": 1, "op": "submit", "kept": 3, "batch", "created"} is the same again, as of another moment; without
//                                                            "numbers" in the reply it is not kept any more: nothing was done
//   {"protocol": 1, "op": "kill", "numbers", "by", "grace"} -> {"ok": true}
//   {"protocol": 1, "op": "pause", "numbers", "checkpoint", "by"}, "resume", "restart" ("fresh"), "clean" ("checkpoints")
//   {"protocol": 1, "op": "edit", "number", "by", and what is new}, {"op": "group", "name", "limit": N or null}
//   {"protocol": 1, "op": "record", "records": […]}       -> {"ok": true, "records": [… with their versions]}
//   {"protocol": 1, "op": "watch"}                        -> {"ok": true}, then {"changed": [17]} whenever runs change
//   {"protocol": 1, "op": "stop"}                         -> {"ok": true}, and the daemon ends; runs go on
// A request that cannot be done: {"ok": false, "error": "WHERE: WHAT; WHAT TO TYPE", "code": exit code}.
// Everything that is only read comes from the registry itself, not through the daemon.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "registry/registry.h"
#include "runner/run_folder.h"

namespace assay::runner {

constexpr int kProtocol = 1;
constexpr std::size_t kLongestRequest = 64 << 20;   // bytes; a dirty diff (16 MiB at most) travels in it

struct SubmittedRun {
  registry::NewRun run;
  std::string doctor_json;         // empty: no preflight was made
};

// One command's runs of one series, with what all of them freeze.
struct Submission {
  registry::SeriesRow series;
  std::vector<FrozenFile> files;   // series.toml, base-*.toml, dirty.diff
  std::vector<SubmittedRun> runs;
};

// What is to be different about a run that has not started.
struct EditRequest {
  std::int64_t number = 0;
  registry::RunEdit edit;          // held, hidden and not_before are not for users to edit
  std::string by;
};

nlohmann::json to_json(const EditRequest& request);
EditRequest edit_from_json(const nlohmann::json& json);
nlohmann::json to_json(const Submission& submission);
Submission submission_from_json(const nlohmann::json& json);

nlohmann::json failure(const std::string& sentence, int code);

// Invalid UTF-8 in what programs and files gave us must not stop a message.
std::string dump(const nlohmann::json& json);

}  // namespace assay::runner

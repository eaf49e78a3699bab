// What the registry's tests share.
#pragma once

#include <string>

#include "catch.h"
#include "registry/registry.h"

namespace assay::test {

inline registry::NewRun new_run(const std::string& id = "g", std::int64_t seed = 1, const std::string& batch = "b1") {
  registry::NewRun run;
  run.series = "e13";
  run.run = id;
  run.seed = seed;
  run.batch = batch;
  run.config_json = R"({"train":{"seed":)" + std::to_string(seed) + "}}";
  run.config_sha256 = "sha-" + id;
  run.derived_json = R"({"layers":6})";
  run.run_json = R"({"run":")" + id + "\"}";
  run.code_json = R"({"user":null})";
  run.environment_json = R"({"cores":2})";
  run.inputs_json = R"({"files":[]})";
  return run;
}

inline std::string folder_name(std::int64_t number, const registry::NewRun& run) {
  return "/runs/" + run.series + "/" + std::to_string(number) + "-" + run.run;
}

// A registry with series e13 and as many runs as asked for.
inline registry::Registry with_runs(const std::filesystem::path& file, int runs) {
  auto made = registry::Registry::open(file, registry::Registry::Access::read_write);
  made.put_series({"e13", "E13", "60 %", "{}"});
  made.add_runs(std::vector<registry::NewRun>(static_cast<std::size_t>(runs), new_run()), folder_name);
  return made;
}

}  // namespace assay::test

// From what the user typed (a series, a file, a run) to the runs meant, resolved and with their seeds.
#pragma once

#include <string>
#include <vector>

#include "experiments/spec/series.h"
#include "registry/registry.h"
#include "runner/protocol.h"

namespace assay::runner {

struct ResolveOptions {
  std::vector<std::string> words;       // series, files, series/run, run ids, numbers of former runs
  std::vector<std::string> only;        // run ids, or all of an id up to a dash; empty: all
  std::vector<std::int64_t> seeds;      // empty: as the config says
  std::vector<std::string> set;         // KEY=VALUE
};

struct ResolvedRun {
  registry::NewRun run;                 // all but batch, facts, priority and after
  spec::Config config;
  spec::Derived derived;
};

struct ResolvedSeries {
  registry::SeriesRow series;
  std::vector<FrozenFile> files;        // series.toml, base-*.toml
  std::filesystem::path folder;         // where the series file lies: a trainer of kind "command" runs there
  std::vector<ResolvedRun> runs;        // seed by seed, each in the series' order
};

// KEY=VALUE entries taken apart. Throws UserError (kUsage) at one that is none.
std::vector<spec::Override> overrides_of(const std::vector<std::string>& set);

// Throws UserError: no such series (kRefused), the diagnostics of a series file, one a line (kRefused), no run by an
// --only word, a --set that is not KEY=VALUE (kUsage). `registry` may be null where there is none yet: numbers of former
// runs are not known then.
std::vector<ResolvedSeries> resolve(const ResolveOptions& options, const registry::Registry* registry);

}  // namespace assay::runner

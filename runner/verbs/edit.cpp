#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "experiments/spec/canonical.h"
#include "runner/client.h"
#include "runner/errors.h"
#include "runner/process.h"
#include "runner/protocol.h"
#include "runner/resolve.h"
#include "runner/selection.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {
namespace {

using nlohmann::json;

// The run's configuration with --set on top, and a note of it in run.json.
registry::RunEdit::Config reconfigured(const registry::RunRow& row, const std::vector<std::string>& set) {
  const std::vector<spec::Override> overrides = overrides_of(set);
  for (const spec::Override& option : overrides) {
    if (option.key == "train.seed")
      throw UserError(kRefused, "--set train.seed: a run's seed is part of its name; type `assay add` with --seeds for another");
    if (option.key == "schedule.group") throw UserError(kRefused, "--set schedule.group: type --group instead");
  }
  const spec::Config before = spec::config_from_json(json::parse(row.config_json));
  auto result = spec::with_overrides(before, spec::derived_from_json(json::parse(row.derived_json)), overrides);
  if (const auto* wrong = std::get_if<spec::Diagnostics>(&result)) {
    std::string lines;
    for (const spec::Diagnostic& diagnostic : *wrong) lines += (lines.empty() ? "" : "\n") + diagnostic.text();
    throw UserError(kRefused, lines);
  }
  const auto& changed = std::get<spec::Overridden>(result);
  if (const std::string missing = spec::missing_to_run(changed.config, changed.derived); !missing.empty())
    throw UserError(kRefused, "run " + std::to_string(row.number) + ": " + missing);
  json run = json::parse(row.run_json);
  run["edited"].push_back({{"time", iso_time(unix_now())}, {"by", user_name()}, {"set", set}});
  return {spec::canonical_json(changed.config), spec::config_hash(changed.config), spec::derived_json(changed.derived),
          dump(run)};
}

}  // namespace

std::function<int()> setup_edit(CLI::App& app) {
  struct Options {
    std::string word;
    std::optional<std::int64_t> priority;
    std::string group;
    std::vector<std::string> after, after_any, set;
    bool no_after = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("ID", options->word, "a run that has not started")->required();
  app.add_option("--priority", options->priority, "higher goes first");
  const auto* group = app.add_option("--group", options->group, "the group it counts in; '' for none");
  app.add_option("--after", options->after, "wait for the success of these runs instead")->delimiter(',')->take_all()->expected(1);
  app.add_option("--after-any", options->after_any, "wait for the end of these runs instead")->delimiter(',')->take_all()->expected(1);
  app.add_flag("--no-after", options->no_after, "wait for no other run any more")->excludes("--after")->excludes("--after-any");
  app.add_option("--set", options->set, "KEY=VALUE in its configuration; several times")->take_all()->expected(1);
  add_json_flag(app, options->json);
  return [options, group] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    const registry::RunRow row = select_one(registry, options->word);
    EditRequest request{row.number, {}, user_name()};
    request.edit.priority = options->priority;
    if (group->count() > 0) request.edit.group = options->group;
    if (!options->after.empty() || options->no_after) request.edit.after = numbers_of(registry, options->after);
    if (!options->after_any.empty() || options->no_after) request.edit.after_any = numbers_of(registry, options->after_any);
    if (!options->set.empty()) request.edit.config = reconfigured(row, options->set);
    if (!request.edit.priority && !request.edit.group && !request.edit.after && !request.edit.after_any && !request.edit.config)
      throw UserError(kUsage, "edit " + options->word + ": nothing is to change; give --priority, --group, --after, "
                                                        "--after-any, --no-after or --set");
    client.request("edit", to_json(request));
    const registry::RunRow now = registry.run(row.number).value();
    if (options->json) std::printf("%s\n", dump(run_json(now, registry.progress(now.number), std::nullopt)).c_str());
    else std::printf("%lld %s: edited\n", static_cast<long long>(now.number), label(now).c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner

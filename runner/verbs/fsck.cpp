// fsck, rebuild, backup: the care of the registry.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/care.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

using nlohmann::json;
using registry::Registry;

std::function<int()> setup_fsck(CLI::App& app) {
  struct Options {
    bool deep = false, json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_flag("--deep", options->deep, "also build a second registry from the folders and compare every row");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    refuse_to_forget(paths);
    const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
    const std::vector<Finding> findings = check_registry(paths, registry, options->deep);
    Registry::RunFilter all;
    all.texts = false;
    const std::size_t runs = registry.runs(all).size();
    if (options->json) {
      json array = json::array();
      for (const Finding& finding : findings)
        array.push_back({{"where", finding.where}, {"what", finding.what}, {"todo", finding.todo}});
      std::printf("%s\n", dump({{"runs", runs}, {"deep", options->deep}, {"findings", array}}).c_str());
    } else {
      for (const Finding& finding : findings)
        std::printf("%s: %s; %s\n", finding.where.c_str(), finding.what.c_str(), finding.todo.c_str());
      std::printf("%zu runs checked, %zu findings\n", runs, findings.size());
    }
    return static_cast<int>(findings.empty() ? kOk : kFindings);
  };
}

std::function<int()> setup_rebuild(CLI::App& app) {
  const auto as_json = std::make_shared<bool>(false);
  add_json_flag(app, *as_json);
  return [as_json] {
    const Rebuilt rebuilt = rebuild_registry(user_paths());
    if (*as_json) {
      std::printf("%s\n", dump({{"series", rebuilt.series}, {"runs", rebuilt.runs}, {"records", rebuilt.records},
                                {"former", rebuilt.former.string()}, {"remarks", rebuilt.remarks}}).c_str());
    } else {
      for (const std::string& remark : rebuilt.remarks) std::fprintf(stderr, "%s\n", remark.c_str());
      std::printf("%zu series, %zu runs and %zu records taken from their folders\n", rebuilt.series, rebuilt.runs, rebuilt.records);
      if (!rebuilt.former.empty()) std::printf("the former registry is kept as %s\n", rebuilt.former.c_str());
    }
    return static_cast<int>(rebuilt.remarks.empty() ? kOk : kFindings);
  };
}

std::function<int()> setup_backup(CLI::App& app) {
  struct Options {
    std::string file;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  app.add_option("FILE", options->file, "where the copy goes; a file that is there is not written over")->required();
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    const Registry registry = Registry::open(paths.registry(), Registry::Access::read_only);
    if (std::filesystem::exists(options->file))
      throw UserError(kRefused, options->file + ": is there already; give another name, or move it away");
    registry.back_up(options->file);
    const auto bytes = std::filesystem::file_size(options->file);
    if (options->json) std::printf("%s\n", dump({{"file", options->file}, {"bytes", bytes}}).c_str());
    else std::printf("%s: %ju bytes\n", options->file.c_str(), static_cast<std::uintmax_t>(bytes));
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner

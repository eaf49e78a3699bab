#include "runner/groups.h"

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/files.h"

namespace assay::runner {
namespace {

std::filesystem::path groups_file(const Paths& paths) { return paths.data / "groups.json"; }

}  // namespace

std::map<std::string, int> read_groups(const Paths& paths) {
  const std::filesystem::path file = groups_file(paths);
  if (!std::filesystem::exists(file)) return {};
  try {
    return nlohmann::json::parse(support::read_file(file)).get<std::map<std::string, int>>();
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(file.string() + ": is not {\"group\": runs at once, …} (" + error.what() +
                             "); correct it, or delete it and set the limits again");
  }
}

void write_groups(const Paths& paths, const std::map<std::string, int>& limits) {
  support::write_file_atomically(groups_file(paths), nlohmann::json(limits).dump(2) + "\n");
}

void restore_groups(const Paths& paths, registry::Registry& registry) {
  const std::map<std::string, int> known = registry.groups();
  if (!std::filesystem::exists(groups_file(paths))) {
    if (!known.empty()) write_groups(paths, known);
    return;
  }
  const std::map<std::string, int> wanted = read_groups(paths);
  if (wanted == known) return;
  registry.batch([&] {
    for (const auto& [name, limit] : known)
      if (wanted.count(name) == 0) registry.set_group(name, std::nullopt);
    for (const auto& [name, limit] : wanted) registry.set_group(name, limit);
  });
}

}  // namespace assay::runner

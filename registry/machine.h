// Reads /proc. Internal to registry/ and its tests.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace assay::registry {

// {"driver": version | null, "gpus": [{"model", "uuid", "bus"}…]} from PROC/driver/nvidia; no driver: null and [].
nlohmann::json nvidia_facts(const std::filesystem::path& proc);

// {"model", "logical", "cores", "usable", "features": […]}: from PROC/cpuinfo; usable counts what this process may run on.
nlohmann::json processor_facts(const std::filesystem::path& proc);

}  // namespace assay::registry

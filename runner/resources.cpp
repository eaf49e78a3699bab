#include "runner/resources.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <thread>

#include "runner/errors.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> variable(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::string(text);
}

template <typename Number>
Number number_from(const char* name, const std::string& text, Number least, Number most, const char* what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least) || !(value <= most))
    throw UserError(kUsage, std::string(name) + ": '" + text + "' is not " + what);
  return value;
}

// "0,1" and "none"; nothing when it is neither.
std::optional<std::set<int>> indices(const std::string& text) {
  std::set<int> gpus;
  if (text == "none") return gpus;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    int index = -1;
    const auto [last, error] = std::from_chars(text.data() + begin, text.data() + end, index);
    if (error != std::errc() || last != text.data() + end || index < 0 || index > 4095) return std::nullopt;
    gpus.insert(index);
    begin = end + 1;
  }
  return gpus;
}

std::set<int> gpus_of_machine() {
  std::set<int> gpus;
  std::error_code error;
  int index = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/driver/nvidia/gpus", error)) gpus.insert(index++);
  // Somebody gave this daemon only some of them; names other than indices (UUIDs) cannot be given on by index.
  if (const auto visible = variable("CUDA_VISIBLE_DEVICES")) {
    const auto allowed = indices(*visible);
    if (!allowed)
      throw UserError(kUsage, "CUDA_VISIBLE_DEVICES: '" + *visible + "' does not name GPUs by index; set ASSAY_GPUS to the "
                                                                     "indices that runs may use, as 0,1, or to none");
    std::erase_if(gpus, [&](int gpu) { return allowed->count(gpu) == 0; });
  }
  return gpus;
}

}  // namespace

Resources resources_of(const DaemonOptions& options) {
  Resources resources;
  Machine& machine = resources.machine;
  if (options.slots > 0) machine.cores = options.slots, machine.cores_from = "--slots " + std::to_string(options.slots);
  else if (const auto text = variable("ASSAY_SLOTS"))
    machine.cores = number_from("ASSAY_SLOTS", *text, 1, 1'000'000, "a number of cores; unset it or set it to 1 or more"),
    machine.cores_from = "ASSAY_SLOTS=" + *text;
  else {
    machine.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    if (machine.cores < ::sysconf(_SC_NPROCESSORS_ONLN)) machine.cores_from = "fewer processors than the machine has";
  }

  if (options.memory > 0) machine.memory = options.memory, machine.memory_from = "--memory " + std::to_string(options.memory);
  else if (const auto text = variable("ASSAY_MEMORY"))
    machine.memory = number_from<std::int64_t>("ASSAY_MEMORY", *text, 1, std::int64_t{1} << 40, "a number of MiB"),
    machine.memory_from = "ASSAY_MEMORY=" + *text;
  else machine.memory = (::sysconf(_SC_PHYS_PAGES) / 1024) * (::sysconf(_SC_PAGESIZE) / 1024);

  const std::string gpus = options.gpus != "auto" ? options.gpus : variable("ASSAY_GPUS").value_or("auto");
  if (gpus == "auto") {
    machine.gpus = gpus_of_machine();
    if (const auto visible = variable("CUDA_VISIBLE_DEVICES")) machine.gpus_from = "CUDA_VISIBLE_DEVICES=" + *visible;
  } else {
    machine.gpus_from = (options.gpus != "auto" ? "--gpus " : "ASSAY_GPUS=") + gpus;
    const auto named = indices(gpus);
    if (!named) throw UserError(kUsage, "--gpus: '" + gpus + "' is no list of indices; write 0,1 or none");
    machine.gpus = *named;
  }

  double reserve = 1;
  if (options.disk_reserve >= 0) reserve = options.disk_reserve;
  else if (const auto text = variable("ASSAY_DISK_RESERVE"))
    reserve = number_from("ASSAY_DISK_RESERVE", *text, 0.0, 1e9, "a number of GiB; 0 keeps nothing free");
  resources.disk_reserve = reserve * (1 << 30);
  return resources;
}

}  // namespace assay::runner

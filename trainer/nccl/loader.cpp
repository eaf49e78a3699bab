#include "trainer/nccl/loader.h"

#include <dlfcn.h>
#include <torch/version.h>

#include <filesystem>

#include "trainer/cuda/loader.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;

OpenedNccl open() {
  const auto missing = [](const std::string& what) {
    return OpenedNccl{nullptr, "train.ranks: " + what + "; or set train.ranks = 1"};
  };
  const fs::path module = fs::read_symlink("/proc/self/exe").parent_path() / "libassay_nccl.so";
  if (!fs::exists(module))
    return missing(module.string() + " is not there: this was built without NCCL's header, which `make setup` brings");
  bool found = dlopen("libnccl.so.2", RTLD_NOW | RTLD_GLOBAL) != nullptr;
  std::string why = found ? "" : loader_error();
  for (const fs::path& folder : torch_folders()) {
    if (found) break;
    const fs::path file = folder.parent_path().parent_path() / "nvidia" / "nccl" / "lib" / "libnccl.so.2";
    if (!fs::exists(file)) continue;
    found = dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
    if (!found) why = loader_error();
  }
  if (!found)
    return missing("NCCL, over which GPUs exchange gradients, cannot be loaded (" + why + "): `pip install torch==" TORCH_VERSION
                   "` in full and name that site-packages folder in ASSAY_TORCH");
  void* handle = dlopen(module.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return missing(module.string() + " cannot be loaded (" + loader_error() + ")");
  const auto entry = reinterpret_cast<decltype(&ASSAY_NCCL_ENTRY)>(dlsym(handle, ASSAY_NCCL_ENTRY_NAME));
  if (!entry) return missing(module.string() + " is of another build: it lacks " ASSAY_NCCL_ENTRY_NAME "; build again");
  return {entry(), ""};
}

}  // namespace

const OpenedNccl& open_nccl() {
  static const OpenedNccl opened = open();
  return opened;
}

}  // namespace assay::train

// Where LibTorch's CUDA half is looked for, and what went wrong with opening a library. Apart from loader.cpp, in whose place a test may put a GPU of its own.
#include <ATen/Context.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "trainer/cuda/loader.h"

namespace assay::train {

namespace fs = std::filesystem;

std::vector<fs::path> torch_folders() {
  std::vector<fs::path> folders;
  const auto add = [&](const fs::path& folder) {
    if (std::find(folders.begin(), folders.end(), folder) == folders.end()) folders.push_back(folder);
  };
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(static_cast<at::Context& (*)()>(&at::globalContext)), &info) && info.dli_fname)
    add(fs::path(info.dli_fname).parent_path());
  if (const char* site = std::getenv("ASSAY_TORCH")) add(fs::path(site) / "torch" / "lib");
  return folders;
}

std::string loader_error() {
  const char* error = dlerror();
  return error ? error : "no reason given";
}

}  // namespace assay::train

#include "trainer/cuda/loader.h"

#include <ATen/Context.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "quant/cuda/loader.h"
#include "trainer/cuda/module.h"

namespace assay::train {
namespace {

namespace fs = std::filesystem;

// "2.11.0" of a folder's ../version.py; empty where it does not say.
std::string version_of(const fs::path& lib) {
  std::ifstream in(lib.parent_path() / "version.py");
  for (std::string line; std::getline(in, line);) {
    const auto from = line.find('\'');
    if (!line.starts_with("__version__") || from == std::string::npos) continue;
    return line.substr(from + 1, line.find_first_of("+'", from + 1) - from - 1);
  }
  return "";
}

// All shared libraries of SITE/nvidia/*/lib, opened again and again as long as more of them find what they need.
void preload(const fs::path& site) {
  std::vector<fs::path> waiting;
  std::error_code error;
  for (const auto& part : fs::directory_iterator(site / "nvidia", error))
    for (const auto& file : fs::directory_iterator(part.path() / "lib", error))
      if (file.path().filename().string().find(".so") != std::string::npos) waiting.push_back(file.path());
  std::sort(waiting.begin(), waiting.end());
  for (std::size_t before = waiting.size() + 1; waiting.size() < before;) {
    before = waiting.size();
    std::erase_if(waiting, [](const fs::path& file) { return dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr; });
  }
}

// Opens libtorch_cuda.so; what went wrong, or empty.
std::string open_torch() {
  std::string looked;
  for (const fs::path& folder : torch_folders()) {
    looked += (looked.empty() ? "" : " or ") + folder.string();
    const fs::path file = folder / "libtorch_cuda.so";
    if (!fs::exists(file)) continue;
    if (const std::string version = version_of(folder); version != TORCH_VERSION)
      return file.string() + " is of torch " + version + ", and this program of " TORCH_VERSION
             ": `pip install torch==" TORCH_VERSION "` somewhere and name that site-packages folder in ASSAY_TORCH";
    if (!dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
      preload(folder.parent_path().parent_path());
      if (!dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL))
        return "LibTorch's CUDA library cannot be loaded (" + loader_error() +
               "): `pip install torch==" TORCH_VERSION "` in full and name that site-packages folder in ASSAY_TORCH";
    }
    if (!dlopen((folder / "libc10_cuda.so").c_str(), RTLD_NOW | RTLD_GLOBAL))
      return "LibTorch's CUDA library cannot be loaded (" + loader_error() + ")";
    return "";
  }
  return "libtorch_cuda.so is not in " + looked + ": `pip install torch==" TORCH_VERSION
         "` and name the site-packages folder that holds torch/ and nvidia/ in ASSAY_TORCH";
}

OpenedGpu open() {
  const auto missing = [](const std::string& what, const std::string& instead = "; or set train.device = \"cpu\"") {
    return OpenedGpu{nullptr, "train.device = \"cuda\": " + what + instead};
  };
  const char* only_cpu = "; set train.device = \"cpu\"";
  if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL))
    return missing("there is no NVIDIA driver (libcuda.so.1) on this machine", only_cpu);
  const fs::path module = fs::read_symlink("/proc/self/exe").parent_path() / "libassay_train_cuda.so";
  if (!fs::exists(module))
    return missing(module.string() + " is not there: this was built without CUDA's headers, which `make setup` brings");
  if (const auto& kernels = quant::cuda::open_device(); !kernels.device) return missing(kernels.missing, only_cpu);
  // cuBLAS promises one order of sums only with workspaces of a size that is given; LibTorch reads it at the first product.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  if (const std::string wrong = open_torch(); !wrong.empty()) return missing(wrong);
  void* handle = dlopen(module.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return missing(module.string() + " cannot be loaded (" + loader_error() + ")");
  const auto entry = reinterpret_cast<decltype(&ASSAY_TRAIN_CUDA_ENTRY)>(dlsym(handle, ASSAY_TRAIN_CUDA_ENTRY_NAME));
  if (!entry) return missing(module.string() + " is of another build: it lacks " ASSAY_TRAIN_CUDA_ENTRY_NAME);
  if (!at::globalContext().hasCUDA()) return missing("LibTorch sees no GPU", only_cpu);
  OpenedGpu opened;
  std::string why;
  opened.accelerator = entry(why);
  if (!opened.accelerator) return missing(why, only_cpu);
  // fp32 means fp32: no products of shortened operands, and no sums in bf16.
  at::globalContext().setFloat32MatmulPrecision("highest");
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  return opened;
}

}  // namespace

const OpenedGpu& open_gpu() {
  static const OpenedGpu opened = open();
  return opened;
}

}  // namespace assay::train

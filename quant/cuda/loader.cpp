#include "quant/cuda/loader.h"

#include <dlfcn.h>

#include <filesystem>

#include "quant/cuda/module.h"

namespace assay::quant::cuda {
namespace {

Opened open() {
  namespace fs = std::filesystem;
  const fs::path module = fs::read_symlink("/proc/self/exe").parent_path() / "libassay_cuda.so";
  if (!fs::exists(module)) {
    return {nullptr, "no CUDA kernels: this was built without nvcc, which `make setup` brings (" + module.string() +
                         " is not there)"};
  }
  // The kernels' runtime library would only call it an old driver.
  if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
    return {nullptr, "no GPU: there is no NVIDIA driver (libcuda.so.1) on this machine"};
  }
  void* handle = dlopen(module.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return {nullptr, std::string("the CUDA kernels cannot be loaded: ") + dlerror()};
  const auto device = reinterpret_cast<decltype(&ASSAY_CUDA_ENTRY)>(dlsym(handle, ASSAY_CUDA_ENTRY_NAME));
  if (!device) return {nullptr, module.string() + " is of another build: it lacks " ASSAY_CUDA_ENTRY_NAME};
  Opened opened;
  opened.device = device(opened.missing);
  return opened;
}

}  // namespace

const Opened& open_device() {
  static const Opened opened = open();
  return opened;
}

}  // namespace assay::quant::cuda

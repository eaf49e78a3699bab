// libFuzzer's entry for series files: the bytes are a file in a folder that has a model.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "series_invariants.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace fs = std::filesystem;
  static const fs::path file = [] {
    // In memory: what is written here is read at once.
    const fs::path folder = fs::path(fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path()) / ("assay-series-fuzz-" + std::to_string(::getpid()));
    fs::create_directories(folder / "model");
    std::ofstream(folder / "model/config.json") << "{\"num_hidden_layers\": 2}";
    return folder / "any.toml";
  }();
  std::ofstream(file, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  bool good = false;
  const std::string finding = assay::fuzz::series_finding(file, good);
  if (!finding.empty()) {
    std::fprintf(stderr, "FINDING: %s\n", finding.c_str());
    std::abort();
  }
  return 0;
}

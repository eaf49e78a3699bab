// The one way to Catch2: version 2 (Debian 12) or 3, whichever is installed.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace assay::test {

// A folder of the test's own under the build tree (never /tmp), empty at the start and left behind for a look.
inline std::filesystem::path fresh_folder(const std::string& name) {
  const auto folder = std::filesystem::path(ASSAY_BINARY_DIR) / "test-data" / name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

inline std::filesystem::path source(const std::string& relative) {
  return std::filesystem::path(ASSAY_SOURCE_DIR) / relative;
}

// For a test case that cannot run on this machine: says so, and why, in the output that CI keeps.
inline void report_skipped(const std::string& what, const std::string& why) {
  std::printf("SKIPPED: %s: %s\n", what.c_str(), why.c_str());
}

}  // namespace assay::test

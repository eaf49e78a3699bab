// What must hold for whatever bytes stand where a bundle's manifest should.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "runner/bundle.h"

namespace assay::fuzz {

// Empty: the manifest was refused, or every path in it stays in the folder it is unpacked in, and in none that another
// path is a file of.
inline std::string manifest_finding(const std::uint8_t* data, std::size_t size) {
  runner::Manifest manifest;
  try {
    manifest = runner::parse_manifest({reinterpret_cast<const char*>(data), size});
  } catch (const std::runtime_error&) {
    return "";
  }
  const std::filesystem::path scratch = "/scratch/folder";
  for (const auto& [path, file] : manifest.files) {
    const auto whole = (scratch / path).lexically_normal();
    const auto inside = whole.lexically_relative(scratch);
    if (inside.empty() || *inside.begin() == ".." || inside.is_absolute() || inside.string() != path) return "it leaves its folder: " + path;
    for (auto parent = inside.parent_path(); !parent.empty(); parent = parent.parent_path())
      if (manifest.files.count(parent.string()) != 0) return "a file where a folder is needed: " + parent.string();
  }
  return "";
}

}  // namespace assay::fuzz

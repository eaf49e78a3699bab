// Runs as one archive (tar, compressed with zstd or gzip), for another machine. docs/run-folder.md has its form.
//
// The first member is manifest.json, {"format": "assay-bundle", "version": 1, "created", "series": [ids], "runs":
// [{"number", "folder"}…], "files": [{"path", "bytes", "sha256"}…]}; every other member is in "files", and the other way
// round. Paths are series/ID/… and runs/SERIES/FOLDER/….
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "registry/registry.h"
#include "runner/paths.h"

namespace assay::runner {

struct BundleFile {
  std::uint64_t bytes = 0;
  std::string sha256;
};
struct Manifest {
  std::string created;
  std::vector<std::string> series;
  std::vector<std::pair<std::int64_t, std::string>> runs;   // number on the machine it comes from, "runs/SERIES/FOLDER"
  std::map<std::string, BundleFile> files;                  // by path
};
// Throws std::runtime_error saying what is wrong: not the form above, a version it does not know, a path that is not
// relative, leaves its folder, or lies in none of the series and runs named.
Manifest parse_manifest(std::string_view text);

struct BundleMade {
  std::size_t runs = 0, files = 0;
  std::uint64_t bytes = 0;               // of the archive
  std::vector<std::string> left_out;     // what is no regular file
};
// Writes the runs and their series. The name decides: .tar.zst or .tar.gz. `checkpoints`: those too. The file appears
// whole or not at all. Throws UserError for a run that has not ended, std::runtime_error for the rest.
BundleMade create_bundle(const Paths& paths, const std::vector<registry::RunRow>& runs,
                         const std::filesystem::path& file, bool checkpoints);

struct BundleTaken {
  std::vector<std::pair<std::int64_t, std::int64_t>> added;    // number there, number here
  std::vector<std::pair<std::int64_t, std::int64_t>> present;  // runs that were here already
  std::size_t files = 0;                                       // whose checksums are right
};
// Checks every member against the manifest in a scratch folder first; only then are the runs added, under new numbers, in
// one transaction. run.json says where they come from ("origin"). A run that is here already (the same batch, id and seed)
// is left as it is. `only_check`: nothing is added. Throws UserError (kRefused) with what is wrong with the archive.
BundleTaken import_bundle(const Paths& paths, const std::filesystem::path& file, bool only_check);

}  // namespace assay::runner

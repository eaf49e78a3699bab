// Facts about code, machine and inputs that are stored with a run. Git through libgit2.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace assay::registry {

struct CodeFacts {
  std::string json;        // {"user": {"root", "commit", "branch", "dirty", "untracked": n} | null, "assay": {"commit", "dirty", "build_type", "flags", "compiler"}}
  std::string dirty_diff;  // of the user's repository, staged, unstaged and untracked (text) files; empty when clean
};
// `where`: any path inside the user's repository; not being inside one is a fact, not an error ("user": null).
CodeFacts code_facts(const std::filesystem::path& where);

// Machine, kernel, processor, cores, memory, GPUs and driver if any, library versions, as JSON.
std::string environment_facts();

// {"files": [{"path", "role": model|train|test, "bytes", "sha256"}…]}; files that are missing are listed with null.
// A checksum is kept in `cache` keyed by (device, inode, size, mtime) so that a series hashes a model once.
std::string input_facts(const std::string& model_folder, const std::string& train_file, const std::string& test_file,
                        const std::filesystem::path& cache);

}  // namespace assay::registry

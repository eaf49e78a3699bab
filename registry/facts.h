// Facts about code, machine and inputs that are stored with a run. Git through libgit2.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace assay::registry {

struct CodeFacts {
  // {"user": {"root", "commit" | null (none yet), "branch" | null (detached), "bare", "dirty", "untracked": n} | null,
  //  "assay": {"commit" | "unknown", "dirty", "build_type", "flags", "compiler"}}
  // dirty: anything staged, changed or untracked. assay's own commit is the one its source tree had when it was built.
  std::string json;
  // The diff from HEAD to the work tree of the user's repository: staged, unstaged, and untracked files as new ones;
  // empty when clean. Files over 4 MiB are named as binary; over 16 MiB the text is cut and its last line says so.
  std::string dirty_diff;
};
// `where`: any path inside the user's repository; not being inside one is a fact, not an error ("user": null).
// Throws std::runtime_error "PATH: REASON" when there is a repository that cannot be read.
CodeFacts code_facts(const std::filesystem::path& where);

// {"hostname", "os", "kernel", "machine", "boot_id", "processor": {"model", "logical", "cores", "usable", "features"},
//  "memory_bytes", "nvidia_driver" | null, "gpus": [{"model", "uuid", "bus"}…],
//  "libraries": {"sqlite", "libgit2", "openssl", "glibc", "libtorch"}, "build": as "assay" above}
std::string environment_facts();

// {"files": [{"path", "role": model|train|test, "bytes", "sha256"}…]}: the files of the model folder by name, then the
// two data files. What is missing is listed with null for both; an empty argument is left out.
// A checksum is kept in `cache` (a JSON file, made when missing, begun anew when unreadable) by device, inode, size,
// mtime and ctime, so that a series hashes a model once. Throws std::runtime_error when a file changes while it is read.
std::string input_facts(const std::string& model_folder, const std::string& train_file, const std::string& test_file,
                        const std::filesystem::path& cache);

}  // namespace assay::registry

// What git knows about a folder, read with libgit2; the git program is never called. Internal to registry/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace assay::registry {

struct GitState {
  std::string root;      // of the work tree, no slash at the end; of the repository itself when it is bare
  std::string commit;    // 40 hexadecimal digits; empty: no commit yet
  std::string branch;    // short name, also of one without a commit; empty: detached HEAD
  bool bare = false;
  bool dirty = false;    // anything staged, changed or untracked (not ignored); a bare repository is never dirty
  std::int64_t untracked = 0;  // files
};

// The repository that `where`, or the nearest folder above it that exists, lies in; nothing when it lies in none.
// Throws std::runtime_error "PATH: REASON" when there is one that cannot be read.
std::optional<GitState> repository_state(const std::filesystem::path& where);

// Unified diff from HEAD to the work tree: staged and unstaged changes, and untracked files as new ones. Empty: clean.
// A file over kDiffFileLimit is named as binary; a diff over kDiffLimit is cut after a whole line and says so in its
// last line.
inline constexpr std::int64_t kDiffFileLimit = 4 << 20;  // bytes
inline constexpr std::size_t kDiffLimit = 16 << 20;      // bytes
std::string repository_diff(const std::filesystem::path& where, std::size_t limit = kDiffLimit);

std::string libgit2_version();

}  // namespace assay::registry

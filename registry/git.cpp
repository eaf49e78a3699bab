#include "registry/git.h"

#include <git2.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "support/lazy_library.h"
#include "support/looks.h"

// What is called of libgit2, which is loaded where there is a repository to read.
static assay::support::LazyLibrary& libgit2() {
  static assay::support::LazyLibrary library(ASSAY_LIBGIT2, "libgit2-dev");
  return library;
}
#define git_diff_free ASSAY_LAZY(libgit2, git_diff_free)
#define git_diff_print ASSAY_LAZY(libgit2, git_diff_print)
#define git_diff_tree_to_workdir_with_index ASSAY_LAZY(libgit2, git_diff_tree_to_workdir_with_index)
#define git_error_last ASSAY_LAZY(libgit2, git_error_last)
#define git_libgit2_init ASSAY_LAZY(libgit2, git_libgit2_init)
#define git_libgit2_opts ASSAY_LAZY(libgit2, git_libgit2_opts)
#define git_libgit2_shutdown ASSAY_LAZY(libgit2, git_libgit2_shutdown)
#define git_object_free ASSAY_LAZY(libgit2, git_object_free)
#define git_oid_tostr ASSAY_LAZY(libgit2, git_oid_tostr)
#define git_reference_free ASSAY_LAZY(libgit2, git_reference_free)
#define git_reference_lookup ASSAY_LAZY(libgit2, git_reference_lookup)
#define git_reference_name_to_id ASSAY_LAZY(libgit2, git_reference_name_to_id)
#define git_reference_symbolic_target ASSAY_LAZY(libgit2, git_reference_symbolic_target)
#define git_repository_free ASSAY_LAZY(libgit2, git_repository_free)
#define git_repository_head_detached ASSAY_LAZY(libgit2, git_repository_head_detached)
#define git_repository_is_bare ASSAY_LAZY(libgit2, git_repository_is_bare)
#define git_repository_open_ext ASSAY_LAZY(libgit2, git_repository_open_ext)
#define git_repository_path ASSAY_LAZY(libgit2, git_repository_path)
#define git_repository_workdir ASSAY_LAZY(libgit2, git_repository_workdir)
#define git_revparse_single ASSAY_LAZY(libgit2, git_revparse_single)
#define git_status_byindex ASSAY_LAZY(libgit2, git_status_byindex)
#define git_status_list_entrycount ASSAY_LAZY(libgit2, git_status_list_entrycount)
#define git_status_list_free ASSAY_LAZY(libgit2, git_status_list_free)
#define git_status_list_new ASSAY_LAZY(libgit2, git_status_list_new)

// libgit2 (where it is built with Mbed TLS) reads every certificate authority of the system when it is started: 55 million
// instructions, for connections that are never made here. It asks for this function by name, finds ours first, and takes
// "no" for an answer.
extern "C" int mbedtls_x509_crt_parse_file(void*, const char*) { return -1; }

namespace assay::registry {
namespace {

namespace fs = std::filesystem;

struct Free {
  void operator()(git_repository* pointer) const { git_repository_free(pointer); }
  void operator()(git_reference* pointer) const { git_reference_free(pointer); }
  void operator()(git_object* pointer) const { git_object_free(pointer); }
  void operator()(git_status_list* pointer) const { git_status_list_free(pointer); }
  void operator()(git_diff* pointer) const { git_diff_free(pointer); }
};
using Repository = std::unique_ptr<git_repository, Free>;
using Reference = std::unique_ptr<git_reference, Free>;
using Object = std::unique_ptr<git_object, Free>;
using StatusList = std::unique_ptr<git_status_list, Free>;
using Diff = std::unique_ptr<git_diff, Free>;

// libgit2 wants to be started once a process.
void start() {
  struct Library {
    Library() {
      git_libgit2_init();
      // A checkout owned by another user (a container's root, a shared folder) may be described: libgit2 runs no
      // program that the repository's configuration names, which is what the check guards the git program against.
      git_libgit2_opts(GIT_OPT_SET_OWNER_VALIDATION, 0);
    }
    ~Library() { git_libgit2_shutdown(); }
  };
  static const Library library;
}

[[noreturn]] void fail(const std::string& where) {
  const git_error* error = git_error_last();
  throw std::runtime_error(where + ": the git repository cannot be read: " +
                           (error && error->message ? error->message : "unknown error"));
}

bool there(const fs::path& path) {
  const fs::file_type type = support::type_at(path);
  return type != fs::file_type::not_found && type != fs::file_type::none;
}

// Is there anything at `folder` or above that libgit2 might take for a repository, bare ones included? Where there is not,
// which is decided by a few looks, it is not loaded at all.
bool may_be_in_repository(fs::path folder) {
  for (;; folder = folder.parent_path()) {
    if (there(folder / ".git") || (there(folder / "HEAD") && there(folder / "objects"))) return true;
    if (!folder.has_relative_path()) return false;
  }
}

Repository open(const fs::path& where) {
  std::error_code ignored;
  fs::path folder = fs::absolute(where, ignored);
  while (!there(folder) && folder.has_relative_path()) folder = folder.parent_path();
  // Where its links lead, as libgit2 sees it: a folder may be a link into a repository.
  folder = support::canonical_or_same(folder);
  if (!may_be_in_repository(folder)) return nullptr;
  support::look_cannot_be_kept();   // its working tree is looked through each time
  start();
  git_repository* repository = nullptr;
  const int result = git_repository_open_ext(&repository, folder.c_str(), 0, nullptr);
  if (result == GIT_ENOTFOUND) return nullptr;
  if (result != 0) fail(folder.string());
  return Repository(repository);
}

// An untracked file by whose name one expects a secret in it: it is named in the diff, and its text is left out.
bool looks_secret(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  if (name == ".env" || name.starts_with(".env.") || name == ".netrc" || name == ".pgpass" || name.starts_with("id_")) return true;
  for (const std::string_view end : {".pem", ".key", ".p12", ".pfx", ".keystore", ".kdbx", ".token"})
    if (name.ends_with(end)) return true;
  for (const std::string_view part : {"credential", "secret", "password"})
    if (name.find(part) != std::string_view::npos && !name.ends_with(".py") && !name.ends_with(".cpp") && !name.ends_with(".h"))
      return true;
  return false;
}

std::string root_of(git_repository* repository) {
  const char* folder = git_repository_workdir(repository);
  std::string root = folder ? folder : git_repository_path(repository);
  while (root.size() > 1 && root.back() == '/') root.pop_back();
  return root;
}

std::string commit_of(git_repository* repository) {
  git_oid oid;
  const int result = git_reference_name_to_id(&oid, repository, "HEAD");
  if (result == GIT_ENOTFOUND || result == GIT_EUNBORNBRANCH) return {};
  if (result != 0) fail(root_of(repository));
  std::array<char, GIT_OID_HEXSZ + 1> text{};
  git_oid_tostr(text.data(), text.size(), &oid);
  return text.data();
}

std::string branch_of(git_repository* repository) {
  if (git_repository_head_detached(repository) == 1) return {};
  git_reference* head = nullptr;  // HEAD itself, which names its branch also when that has no commit
  if (git_reference_lookup(&head, repository, "HEAD") != 0) fail(root_of(repository));
  const Reference owner(head);
  const char* target = git_reference_symbolic_target(head);
  std::string name = target ? target : "";
  constexpr std::string_view kHeads = "refs/heads/";
  return name.starts_with(kHeads) ? name.substr(kHeads.size()) : name;
}

// Somebody may be saving files while they are read: libgit2 then fails, and the next look succeeds.
template <typename Look>
auto patiently(const std::string& root, Look look) {
  constexpr int kTries = 3;
  for (int i = 0; i < kTries; ++i)
    if (auto* found = look()) return found;
  fail(root);
}

}  // namespace

std::optional<GitState> repository_state(const fs::path& where) {
  const Repository repository = open(where);
  if (!repository) return std::nullopt;
  GitState state;
  state.root = root_of(repository.get());
  state.commit = commit_of(repository.get());
  state.branch = branch_of(repository.get());
  state.bare = git_repository_is_bare(repository.get()) == 1;
  if (state.bare) return state;

  git_status_options options = GIT_STATUS_OPTIONS_INIT;
  options.show = GIT_STATUS_SHOW_INDEX_AND_WORKDIR;
  options.flags = GIT_STATUS_OPT_INCLUDE_UNTRACKED | GIT_STATUS_OPT_RECURSE_UNTRACKED_DIRS;
  const StatusList list(patiently(state.root, [&] {
    git_status_list* found = nullptr;
    return git_status_list_new(&found, repository.get(), &options) == 0 ? found : nullptr;
  }));
  const std::size_t count = git_status_list_entrycount(list.get());
  state.dirty = count > 0;
  for (std::size_t i = 0; i < count; ++i)
    if (git_status_byindex(list.get(), i)->status & GIT_STATUS_WT_NEW) ++state.untracked;
  return state;
}

std::string repository_diff(const fs::path& where, std::size_t limit) {
  const Repository repository = open(where);
  if (!repository || git_repository_is_bare(repository.get()) == 1) return {};
  const std::string root = root_of(repository.get());
  Object tree;
  if (!commit_of(repository.get()).empty()) {
    git_object* found = nullptr;
    if (git_revparse_single(&found, repository.get(), "HEAD^{tree}") != 0) fail(root);
    tree.reset(found);
  }
  git_diff_options options = GIT_DIFF_OPTIONS_INIT;
  options.flags = GIT_DIFF_INCLUDE_UNTRACKED | GIT_DIFF_RECURSE_UNTRACKED_DIRS | GIT_DIFF_SHOW_UNTRACKED_CONTENT;
  options.max_size = kDiffFileLimit;
  const Diff diff(patiently(root, [&] {
    git_diff* found = nullptr;
    const int result = git_diff_tree_to_workdir_with_index(&found, repository.get(),
                                                           reinterpret_cast<git_tree*>(tree.get()), &options);
    return result == 0 ? found : nullptr;
  }));

  struct Text {
    std::string text;
    std::size_t limit;
    bool cut = false;
  } out{{}, limit, false};
  const auto add_line = [](const git_diff_delta* delta, const git_diff_hunk*, const git_diff_line* line, void* payload) -> int {
    auto& to = *static_cast<Text*>(payload);
    if (delta->status == GIT_DELTA_UNTRACKED && line->origin != GIT_DIFF_LINE_FILE_HDR && looks_secret(delta->new_file.path)) {
      if (line->origin == GIT_DIFF_LINE_HUNK_HDR) to.text += "# assay: left out, the name is one of a file with secrets\n";
      return 0;
    }
    const bool marked = line->origin == GIT_DIFF_LINE_CONTEXT || line->origin == GIT_DIFF_LINE_ADDITION ||
                        line->origin == GIT_DIFF_LINE_DELETION;
    if (to.text.size() + line->content_len + 1 > to.limit) {
      to.cut = true;
      return GIT_EUSER;
    }
    if (marked) to.text += line->origin;
    to.text.append(line->content, line->content_len);
    return 0;
  };
  const int result = git_diff_print(diff.get(), GIT_DIFF_FORMAT_PATCH, add_line, &out);
  if (result != 0 && !out.cut) fail(root);
  if (out.cut) out.text += "\n# assay: cut here; the whole diff is longer than " + std::to_string(limit) + " bytes\n";
  return std::move(out.text);
}

std::string libgit2_version() {
  return LIBGIT2_VERSION;   // of the headers: asking the library would load it
}

}  // namespace assay::registry

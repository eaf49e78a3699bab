#include "support/looks.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string_view>
#include <utility>

#include "support/fd.h"

namespace assay::support {
namespace {

namespace fs = std::filesystem;

thread_local Looks* recorded = nullptr;

fs::file_type look_at_type(const fs::path& path) {
  std::error_code error;
  return fs::status(path, error).type();
}

bool look_whether_executable(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0; }

fs::path look_where_it_leads(const fs::path& path) {
  std::error_code error;
  fs::path real = fs::weakly_canonical(path, error);
  return error ? path : real;
}

// Is it an existing path without a link in it? Then it leads to itself, which two calls tell.
bool leads_nowhere_else(const fs::path& path) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS;
  return Fd(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how))).get() >= 0;
}

// Where an existing path leads, as the kernel has it: three calls instead of one for each of its parts. Only to be compared
// with: of a folder that has gone, or lies outside of this root, it is no path.
bool leads_to(const fs::path& path, const fs::path& where) {
  const Fd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (fd.get() < 0) return false;
  char name[32], text[4096];
  std::snprintf(name, sizeof name, "/proc/self/fd/%d", fd.get());
  const ssize_t n = ::readlink(name, text, sizeof text);
  return n > 0 && static_cast<std::size_t>(n) < sizeof text && where.native() == std::string_view(text, static_cast<std::size_t>(n));
}

template <typename Look>
auto noted(const char* what, const Look& look, const fs::path& path) {
  auto answer = look(path);
  if (recorded != nullptr)
    recorded->add_once(what + path.native(), std::to_string(static_cast<int>(answer)), [look, path, answer] { return look(path) == answer; });
  return answer;
}

}  // namespace

Looks::Recording::Recording(Looks* looks) : before_(std::exchange(recorded, looks)) {}
Looks::Recording::~Recording() { recorded = before_; }

Looks* Looks::current() { return recorded; }

void Looks::add(std::function<bool()> same) { questions_.push_back(std::move(same)); }

void Looks::add_once(const std::string& question, const std::string& answer, std::function<bool()> same) {
  const auto [known, fresh] = asked_.emplace(question, answer);
  if (fresh) add(std::move(same));
  else if (known->second != answer) spoil();   // it changed while the work was done
}

void Looks::spoil() { spoiled_ = true; }

bool Looks::same() const {
  if (spoiled_) return false;
  const Recording none(nullptr);
  try {
    for (const auto& question : questions_)
      if (!question()) return false;
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

fs::file_type type_at(const fs::path& path) { return noted("type ", look_at_type, path); }
bool is_file_at(const fs::path& path) { return type_at(path) == fs::file_type::regular; }
bool is_folder_at(const fs::path& path) { return type_at(path) == fs::file_type::directory; }
bool may_execute(const fs::path& path) { return noted("executable ", look_whether_executable, path); }
fs::path canonical_or_same(const fs::path& path) {
  fs::path answer = look_where_it_leads(path);
  if (recorded != nullptr)
    recorded->add([path, answer] {
      return (path == answer && leads_nowhere_else(path)) || leads_to(path, answer) || look_where_it_leads(path) == answer;
    });
  return answer;
}

void look_cannot_be_kept() {
  if (recorded != nullptr) recorded->spoil();
}

}  // namespace assay::support

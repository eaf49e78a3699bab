#include "support/looks.h"

#include <unistd.h>

#include <exception>
#include <utility>

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

template <typename Look>
auto noted(const Look& look, const fs::path& path) {
  auto answer = look(path);
  if (recorded != nullptr) recorded->add([look, path, answer] { return look(path) == answer; });
  return answer;
}

}  // namespace

Looks::Recording::Recording(Looks* looks) : before_(std::exchange(recorded, looks)) {}
Looks::Recording::~Recording() { recorded = before_; }

Looks* Looks::current() { return recorded; }

void Looks::add(std::function<bool()> same) { questions_.push_back(std::move(same)); }

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

fs::file_type type_at(const fs::path& path) { return noted(look_at_type, path); }
bool is_file_at(const fs::path& path) { return type_at(path) == fs::file_type::regular; }
bool is_folder_at(const fs::path& path) { return type_at(path) == fs::file_type::directory; }
bool may_execute(const fs::path& path) { return noted(look_whether_executable, path); }
fs::path canonical_or_same(const fs::path& path) { return noted(look_where_it_leads, path); }

void look_cannot_be_kept() {
  if (recorded != nullptr) recorded->spoil();
}

}  // namespace assay::support

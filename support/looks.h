// What a piece of work looked at outside of its process, so that a process that stays (runner/front/warm.cpp) need not do it
// again while the same looks find the same. No file's times are trusted: each question is asked again and its answer
// compared, a file's text included. Arguments, environment and working directory are for the caller to compare.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace assay::support {

class Looks {
 public:
  // While it lives, the looks of this thread go into `looks`; null: nowhere, whatever an outer one says.
  class Recording {
   public:
    explicit Recording(Looks* looks);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Looks* before_;
  };
  static Looks* current();   // null where nothing is recorded

  // A question that finds true while its answer is the one that was found.
  void add(std::function<bool()> same);
  // The same for a question that may come again during one piece of work: it is kept once.
  void add_once(const std::string& question, const std::string& answer, std::function<bool()> same);
  // Something was looked at that cannot be asked again, or not sooner than the work is done: it is done each time.
  void spoil();
  bool spoiled() const { return spoiled_; }
  // Asks again, in order, until one differs. A question that throws has another answer.
  bool same() const;

 private:
  std::vector<std::function<bool()>> questions_;
  std::map<std::string, std::string> asked_;   // by add_once(), and the answers
  bool spoiled_ = false;
};

// Looks that are noted where something is recorded; support::read_file() is another.

// Of what the path leads to; file_type::not_found, file_type::none where it cannot be told.
std::filesystem::file_type type_at(const std::filesystem::path& path);
bool is_file_at(const std::filesystem::path& path);
bool is_folder_at(const std::filesystem::path& path);
// access(2): by the real user.
bool may_execute(const std::filesystem::path& path);
// fs::weakly_canonical(); the path as it is where that fails.
std::filesystem::path canonical_or_same(const std::filesystem::path& path);
// For what has no function here.
void look_cannot_be_kept();

}  // namespace assay::support

#include "registry/facts.h"

#include <gnu/libc-version.h>
#include <openssl/crypto.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "registry/build.h"
#include "registry/git.h"
#include "registry/machine.h"
#include "support/files.h"

namespace assay::registry {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The text after "name<spaces>:<spaces>" as /proc writes it.
std::string_view value_after_colon(std::string_view line) {
  const auto colon = line.find(':');
  const auto start = colon == std::string_view::npos ? colon : line.find_first_not_of(" \t", colon + 1);
  return start == std::string_view::npos ? std::string_view() : line.substr(start);
}

// Of a file that cannot be read: nothing.
std::string text_of(const fs::path& file) {
  try {
    return support::read_file(file);
  } catch (const std::runtime_error&) {
    return {};
  }
}

// Calls `take` with each line, without its newline, until it says true.
template <typename Take>
void each_line(std::string_view text, const Take& take) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    if (take(text.substr(0, end)) || end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

template <typename Take>
void each_word(std::string_view text, const Take& take) {
  for (std::size_t begin; (begin = text.find_first_not_of(" \t")) != std::string_view::npos;) {
    text.remove_prefix(begin);
    const auto end = std::min(text.find_first_of(" \t"), text.size());
    take(text.substr(0, end));
    text.remove_prefix(end);
  }
}

json build_json() {
  const BuildFacts& build = build_facts();
  return {{"commit", build.commit},   {"dirty", build.dirty},       {"build_type", build.build_type},
          {"flags", build.flags},     {"compiler", build.compiler}};
}

std::string first_line(const fs::path& file) {
  const std::string text = text_of(file);
  return text.substr(0, text.find('\n'));
}

json memory_bytes() {
  json bytes = nullptr;
  const std::string text = text_of("/proc/meminfo");
  each_line(text, [&](std::string_view line) {
    if (!line.starts_with("MemTotal:")) return false;
    bytes = std::stoll(std::string(value_after_colon(line))) * 1024;
    return true;
  });
  return bytes;
}

json os_name() {
  json found = nullptr;
  const std::string text = text_of("/etc/os-release");
  each_line(text, [&](std::string_view line) {
    if (!line.starts_with("PRETTY_NAME=")) return false;
    std::string_view name = line.substr(std::strlen("PRETTY_NAME="));
    if (name.size() >= 2 && name.front() == '"' && name.back() == '"') name = name.substr(1, name.size() - 2);
    found = std::string(name);
    return true;
  });
  return found;
}

// ---- checksums ---------------------------------------------------------------------------------------------------

struct Stamp {  // changes whenever the bytes may have: ctime cannot be set back by hand, mtime can
  std::string key;
  std::int64_t bytes = 0;
  double changed = 0;  // unix seconds
};

Stamp stamp_of(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) throw std::runtime_error(path.string() + ": " + std::strerror(errno));
  std::ostringstream key;
  key << info.st_dev << ':' << info.st_ino << ':' << info.st_size << ':' << info.st_mtim.tv_sec << '.'
      << info.st_mtim.tv_nsec << ':' << info.st_ctim.tv_sec << '.' << info.st_ctim.tv_nsec;
  return {key.str(), info.st_size, static_cast<double>(std::max(info.st_mtim.tv_sec, info.st_ctim.tv_sec))};
}

class Checksums {
 public:
  explicit Checksums(fs::path file) : file_(std::move(file)) {
    std::ifstream in(file_);
    // A cache that cannot be read is an empty one: every sum in it can be had again.
    const json kept = json::parse(in, nullptr, false);
    if (kept.is_object())
      for (const auto& [key, sum] : kept.items())
        if (sum.is_string()) sums_[key] = sum;
  }

  json entry(const fs::path& path, const char* role) {
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored))
      return {{"path", path.string()}, {"role", role}, {"bytes", nullptr}, {"sha256", nullptr}};
    const Stamp before = stamp_of(path);
    std::string sum;
    if (const auto known = sums_.find(before.key); known != sums_.end()) {
      sum = known->second;
    } else {
      sum = support::sha256_file(path);
      if (stamp_of(path).key != before.key)
        throw std::runtime_error(path.string() + ": changed while its checksum was computed");
      // A file changed in the same tick of its clock would keep its stamp: only one at rest is remembered.
      const double now =
          std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
      if (now - before.changed > 2) {
        sums_[before.key] = sum;
        changed_ = true;
      }
    }
    return {{"path", path.string()}, {"role", role}, {"bytes", before.bytes}, {"sha256", sum}};
  }

  void save() const {
    if (!changed_) return;
    if (file_.has_parent_path()) fs::create_directories(file_.parent_path());
    support::write_file_atomically(file_, json(sums_).dump(1));
  }

 private:
  fs::path file_;
  std::map<std::string, std::string> sums_;
  bool changed_ = false;
};

}  // namespace

CodeFacts code_facts(const fs::path& where) {
  CodeFacts facts;
  json user = nullptr;
  if (const auto state = repository_state(where)) {
    const auto or_null = [](const std::string& text) { return text.empty() ? json(nullptr) : json(text); };
    user = {{"root", state->root},   {"commit", or_null(state->commit)}, {"branch", or_null(state->branch)},
            {"bare", state->bare},   {"dirty", state->dirty},            {"untracked", state->untracked}};
    if (state->dirty) facts.dirty_diff = repository_diff(where);
  }
  facts.json = json{{"user", user}, {"assay", build_json()}}.dump();
  return facts;
}

json nvidia_facts(const fs::path& proc) {
  json facts = {{"driver", nullptr}, {"gpus", json::array()}};
  const fs::path folder = proc / "driver" / "nvidia";
  std::error_code none;
  if (!fs::exists(folder, none)) return facts;
  // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 …": the first word that looks like one.
  const std::string version = first_line(folder / "version");
  each_word(version, [&](std::string_view word) {
    const bool digits = word.find_first_not_of("0123456789.") == std::string_view::npos;
    if (facts["driver"].is_null() && digits && word.find('.') != std::string_view::npos) facts["driver"] = std::string(word);
  });
  std::set<fs::path> cards;
  for (const auto& entry : fs::directory_iterator(folder / "gpus", none)) cards.insert(entry.path());
  for (const fs::path& card : cards) {
    json gpu = {{"model", nullptr}, {"uuid", nullptr}, {"bus", card.filename().string()}};
    const std::string information = text_of(card / "information");
    each_line(information, [&](std::string_view line) {
      if (line.starts_with("Model:")) gpu["model"] = std::string(value_after_colon(line));
      if (line.starts_with("GPU UUID:")) gpu["uuid"] = std::string(value_after_colon(line));
      return false;
    });
    facts["gpus"].push_back(std::move(gpu));
  }
  return facts;
}

json processor_facts(const fs::path& proc) {
  static constexpr std::array<std::string_view, 11> kTelling = {"avx",      "avx2",        "fma",         "f16c",
                                                                "avx512f",  "avx512bw",    "avx512vl",    "avx512_bf16",
                                                                "avx512_vnni", "amx_tile", "amx_bf16"};
  std::string model;
  std::int64_t logical = 0;
  std::set<std::pair<std::string, std::string>> cores;  // (package, core)
  std::string package;
  std::set<std::string> features;
  const std::string text = text_of(proc / "cpuinfo");
  each_line(text, [&](std::string_view line) {
    if (line.starts_with("processor")) ++logical;
    if (line.starts_with("model name")) model = value_after_colon(line);
    if (line.starts_with("physical id")) package = value_after_colon(line);
    if (line.starts_with("core id")) cores.emplace(package, value_after_colon(line));
    if (line.starts_with("flags") && features.empty())
      each_word(value_after_colon(line), [&](std::string_view word) {
        if (std::find(kTelling.begin(), kTelling.end(), word) != kTelling.end()) features.emplace(word);
      });
    return false;
  });
  cpu_set_t set;
  CPU_ZERO(&set);
  const std::int64_t usable = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : logical;
  return {{"model", model},
          {"logical", logical},
          {"cores", cores.empty() ? logical : static_cast<std::int64_t>(cores.size())},
          {"usable", usable},
          {"features", features}};
}

std::string environment_facts() {
  struct utsname kernel {};
  ::uname(&kernel);
  const json nvidia = nvidia_facts("/proc");
  return json{{"hostname", kernel.nodename},
              {"os", os_name()},
              {"kernel", std::string(kernel.sysname) + " " + kernel.release},
              {"machine", kernel.machine},
              {"boot_id", first_line("/proc/sys/kernel/random/boot_id")},
              {"processor", processor_facts("/proc")},
              {"memory_bytes", memory_bytes()},
              {"nvidia_driver", nvidia.at("driver")},
              {"gpus", nvidia.at("gpus")},
              {"libraries",
               {{"sqlite", sqlite3_libversion()},
                {"libgit2", libgit2_version()},
                {"openssl", OpenSSL_version(OPENSSL_VERSION_STRING)},
                {"glibc", gnu_get_libc_version()},
                {"libtorch", build_facts().libtorch}}},
              {"build", build_json()}}
      .dump();
}

std::string input_facts(const std::string& model_folder, const std::string& train_file, const std::string& test_file,
                        const fs::path& cache) {
  json files = json::array();
  if (model_folder.empty() && train_file.empty() && test_file.empty()) return json{{"files", files}}.dump();
  Checksums sums(cache);
  if (!model_folder.empty()) {
    std::set<fs::path> found;  // sorted; what begins with a dot is a tool's own (.cache, .git)
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(model_folder, none))
      if (entry.is_regular_file() && !entry.path().filename().string().starts_with(".")) found.insert(entry.path());
    for (const fs::path& path : found) files.push_back(sums.entry(path, "model"));
    if (found.empty()) files.push_back(sums.entry(model_folder, "model"));
  }
  if (!train_file.empty()) files.push_back(sums.entry(train_file, "train"));
  if (!test_file.empty()) files.push_back(sums.entry(test_file, "test"));
  sums.save();
  return json{{"files", files}}.dump();
}

}  // namespace assay::registry

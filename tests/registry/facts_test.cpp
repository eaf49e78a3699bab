#include <git2.h>
#include <sys/stat.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "catch.h"
#include "registry/facts.h"
#include "registry/git.h"
#include "registry/machine.h"
#include "support/files.h"

using namespace assay::registry;
using assay::support::write_file_atomically;
using assay::test::fresh_folder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// A repository made with libgit2, as a user would with git.
class Scratch {
 public:
  explicit Scratch(const fs::path& folder, bool bare = false) : folder_(folder) {
    git_libgit2_init();
    git_repository_init_options options = GIT_REPOSITORY_INIT_OPTIONS_INIT;
    options.flags = GIT_REPOSITORY_INIT_MKPATH;
    if (bare) options.flags |= GIT_REPOSITORY_INIT_BARE;
    options.initial_head = "trunk";
    REQUIRE(git_repository_init_ext(&repository_, folder.c_str(), &options) == 0);
  }
  ~Scratch() {
    git_repository_free(repository_);
    git_libgit2_shutdown();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void stage() {
    git_index* index = nullptr;
    REQUIRE(git_repository_index(&index, repository_) == 0);
    git_index_read(index, 1);
    REQUIRE(git_index_add_all(index, nullptr, 0, nullptr, nullptr) == 0);
    REQUIRE(git_index_write(index) == 0);
    git_index_free(index);
  }
  std::string commit() {
    stage();
    git_index* index = nullptr;
    git_oid tree_id, id;
    git_tree* tree = nullptr;
    git_signature* author = nullptr;
    git_object* parent = nullptr;
    REQUIRE(git_repository_index(&index, repository_) == 0);
    REQUIRE(git_index_write_tree(&tree_id, index) == 0);
    REQUIRE(git_tree_lookup(&tree, repository_, &tree_id) == 0);
    REQUIRE(git_signature_new(&author, "A", "a@example.com", 1'700'000'000, 0) == 0);
    git_revparse_single(&parent, repository_, "HEAD");
    const auto* parents = reinterpret_cast<const git_commit*>(parent);
    REQUIRE(git_commit_create(&id, repository_, "HEAD", author, author, nullptr, "m", tree, parent ? 1 : 0,
                              parent ? &parents : nullptr) == 0);
    git_object_free(parent);
    git_signature_free(author);
    git_tree_free(tree);
    git_index_free(index);
    return git_oid_tostr_s(&id);
  }
  git_repository* get() { return repository_; }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    write_file_atomically(folder_ / name, text);
  }

 private:
  fs::path folder_;
  git_repository* repository_ = nullptr;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("no repository is a fact, not an error") {
  const auto facts = code_facts("/proc");
  CHECK(json::parse(facts.json).at("user").is_null());
  CHECK(facts.dirty_diff.empty());
}

TEST_CASE("a repository without a commit has a branch and no commit, and is dirty once it holds a file") {
  const auto folder = fresh_folder("facts/unborn");
  Scratch repository(folder);
  auto user = json::parse(code_facts(folder).json).at("user");
  CHECK(user.at("commit").is_null());
  CHECK(user.at("branch") == "trunk");
  CHECK(user.at("dirty") == false);
  CHECK(user.at("root") == folder.string());
  repository.write("a.txt", "hello\n");
  const auto facts = code_facts(folder);
  user = json::parse(facts.json).at("user");
  CHECK(user.at("dirty") == true);
  CHECK(user.at("untracked") == 1);
  CHECK(contains(facts.dirty_diff, "+hello"));
}

TEST_CASE("staged, unstaged and untracked changes each make the tree dirty and stand in the diff") {
  const auto folder = fresh_folder("facts/dirty");
  Scratch repository(folder);
  repository.write("staged.txt", "one\n");
  repository.write("changed.txt", "one\n");
  repository.write("gone.txt", "farewell\n");
  repository.write(".gitignore", "ignored/\n");
  const std::string commit = repository.commit();
  repository.write("ignored/x", "never seen\n");

  auto facts = code_facts(folder / "deep" / "not there yet");  // any path inside will do
  auto user = json::parse(facts.json).at("user");
  CHECK(user.at("commit") == commit);
  CHECK(user.at("branch") == "trunk");
  CHECK(user.at("dirty") == false);
  CHECK(facts.dirty_diff.empty());

  repository.write("staged.txt", "two, staged\n");
  repository.stage();
  facts = code_facts(folder);
  CHECK(json::parse(facts.json).at("user").at("dirty") == true);
  CHECK(contains(facts.dirty_diff, "+two, staged"));

  repository.write("changed.txt", "two, unstaged\n");
  fs::remove(folder / "gone.txt");
  repository.write("sub/new.txt", "fresh\n");
  repository.write("binary", std::string("\0\1\2", 3));
  facts = code_facts(folder / "sub");
  user = json::parse(facts.json).at("user");
  CHECK(user.at("dirty") == true);
  CHECK(user.at("untracked") == 2);
  CHECK(contains(facts.dirty_diff, "-one"));
  CHECK(contains(facts.dirty_diff, "+two, staged"));
  CHECK(contains(facts.dirty_diff, "+two, unstaged"));
  CHECK(contains(facts.dirty_diff, "-farewell"));
  CHECK(contains(facts.dirty_diff, "+++ b/sub/new.txt"));
  CHECK(contains(facts.dirty_diff, "+fresh"));
  CHECK(contains(facts.dirty_diff, "binary"));
  CHECK_FALSE(contains(facts.dirty_diff, "never seen"));
}

TEST_CASE("an untracked file alone makes the tree dirty") {
  const auto folder = fresh_folder("facts/untracked");
  Scratch repository(folder);
  repository.write("a", "a\n");
  repository.commit();
  repository.write("b", "b\n");
  const auto user = json::parse(code_facts(folder).json).at("user");
  CHECK(user.at("dirty") == true);
  CHECK(user.at("untracked") == 1);
}

TEST_CASE("a diff over the limit is cut and says so") {
  const auto folder = fresh_folder("facts/long");
  Scratch repository(folder);
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "line " + std::to_string(i) + "\n";
  repository.write("long.txt", text);
  const std::string diff = repository_diff(folder, 2000);
  CHECK(diff.size() < 2100);
  CHECK(contains(diff, "# assay: cut here; the whole diff is longer than 2000 bytes"));
  CHECK(repository_diff(folder).size() > text.size());
}

TEST_CASE("a detached HEAD has a commit and no branch") {
  const auto folder = fresh_folder("facts/detached");
  Scratch repository(folder);
  repository.write("a", "a\n");
  const auto commit = repository.commit();
  REQUIRE(git_repository_detach_head(repository.get()) == 0);
  const auto user = json::parse(code_facts(folder).json).at("user");
  CHECK(user.at("commit") == commit);
  CHECK(user.at("branch").is_null());
}

TEST_CASE("a worktree is its own tree with its own branch") {
  const auto folder = fresh_folder("facts/worktree");
  Scratch repository(folder / "main");
  repository.write("a", "a\n");
  const auto commit = repository.commit();
  git_worktree* tree = nullptr;
  REQUIRE(git_worktree_add(&tree, repository.get(), "side", (folder / "side").c_str(), nullptr) == 0);
  git_worktree_free(tree);
  write_file_atomically(folder / "side" / "b", "only here\n");
  const auto facts = code_facts(folder / "side");
  const auto user = json::parse(facts.json).at("user");
  CHECK(user.at("commit") == commit);
  CHECK(user.at("branch") == "side");
  CHECK(user.at("root") == (folder / "side").string());
  CHECK(user.at("dirty") == true);
  CHECK(contains(facts.dirty_diff, "+only here"));
  CHECK(json::parse(code_facts(folder / "main").json).at("user").at("dirty") == false);
}

TEST_CASE("a bare repository is described and never dirty") {
  const auto folder = fresh_folder("facts/bare");
  Scratch repository(folder / "r.git", true);
  const auto user = json::parse(code_facts(folder / "r.git").json).at("user");
  CHECK(user.at("bare") == true);
  CHECK(user.at("dirty") == false);
}

TEST_CASE("a damaged repository is refused in a sentence that names it") {
  const auto folder = fresh_folder("facts/damaged");
  Scratch repository(folder);
  repository.write("a", "a\n");
  repository.commit();
  write_file_atomically(folder / ".git" / "index", "this is no index");
  CHECK_THROWS_WITH(code_facts(folder), Catch::StartsWith(folder.string() + ": the git repository cannot be read: "));
}

TEST_CASE("our own build says what it is") {
  const auto build = json::parse(code_facts("/proc").json).at("assay");
  const std::string commit = build.at("commit");
  CHECK((commit == "unknown" || commit.size() == 40));
  CHECK(build.at("dirty").is_boolean());
  CHECK_FALSE(build.at("compiler").get<std::string>().empty());
  CHECK_FALSE(build.at("build_type").get<std::string>().empty());
}

TEST_CASE("the environment names machine, kernel, processor and libraries") {
  const auto facts = json::parse(environment_facts());
  CHECK(facts.at("kernel").get<std::string>().starts_with("Linux "));
  CHECK(facts.at("boot_id").get<std::string>().size() == 36);
  CHECK(facts.at("memory_bytes").get<std::int64_t>() > (std::int64_t{1} << 28));
  CHECK(facts.at("processor").at("logical").get<int>() >= 1);
  CHECK(facts.at("processor").at("usable").get<int>() >= 1);
  CHECK(facts.at("gpus").is_array());
  for (const char* library : {"sqlite", "libgit2", "openssl", "glibc", "libtorch"})
    CHECK_FALSE(facts.at("libraries").at(library).get<std::string>().empty());
}

TEST_CASE("an NVIDIA driver's folder is read") {
  const auto proc = fresh_folder("facts/nvidia");
  CHECK(nvidia_facts(proc).at("driver").is_null());
  CHECK(nvidia_facts(proc).at("gpus").empty());
  for (const char* bus : {"0000:1a:00.0", "0000:05:00.0"}) {
    const auto card = proc / "driver" / "nvidia" / "gpus" / bus;
    fs::create_directories(card);
    write_file_atomically(card / "information",
                          std::string("Model: \t\t NVIDIA H200\nIRQ:   \t\t 40\nGPU UUID: \t GPU-1\nBus Location: \t ") + bus + "\n");
  }
  write_file_atomically(proc / "driver" / "nvidia" / "version",
                        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n");
  const auto facts = nvidia_facts(proc);
  CHECK(facts.at("driver") == "535.104.05");
  REQUIRE(facts.at("gpus").size() == 2);
  CHECK(facts.at("gpus")[0].at("bus") == "0000:05:00.0");
  CHECK(facts.at("gpus")[0].at("model") == "NVIDIA H200");
  CHECK(facts.at("gpus")[0].at("uuid") == "GPU-1");
}

TEST_CASE("cores are counted once per package and core id") {
  const auto proc = fresh_folder("facts/cpu");
  std::string text;
  for (int i = 0; i < 4; ++i)
    text += "processor\t: " + std::to_string(i) + "\nmodel name\t: Some CPU @ 2: fast\nphysical id\t: 0\ncore id\t\t: " +
            std::to_string(i / 2) + "\nflags\t\t: fpu avx2 fma\n\n";
  write_file_atomically(proc / "cpuinfo", text);
  const auto facts = processor_facts(proc);
  CHECK(facts.at("logical") == 4);
  CHECK(facts.at("cores") == 2);
  CHECK(facts.at("model") == "Some CPU @ 2: fast");
  CHECK(facts.at("features") == json({"avx2", "fma"}));
}

TEST_CASE("inputs are listed with their sums; the missing ones with null") {
  const auto folder = fresh_folder("facts/inputs");
  fs::create_directories(folder / "model" / ".cache");
  write_file_atomically(folder / "model" / "config.json", "abc");
  write_file_atomically(folder / "model" / ".hidden", "x");
  write_file_atomically(folder / "train.jsonl", "");
  const auto facts = json::parse(input_facts((folder / "model").string(), (folder / "train.jsonl").string(),
                                             (folder / "test.jsonl").string(), folder / "cache.json"));
  const auto& files = facts.at("files");
  REQUIRE(files.size() == 3);
  CHECK(files[0].at("role") == "model");
  CHECK(files[0].at("bytes") == 3);
  // SHA-256 of "abc": FIPS 180-2, appendix B.1.
  CHECK(files[0].at("sha256") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(files[1].at("role") == "train");
  CHECK(files[1].at("bytes") == 0);
  CHECK(files[2].at("role") == "test");
  CHECK(files[2].at("bytes").is_null());
  CHECK(files[2].at("sha256").is_null());
  const auto none = json::parse(input_facts((folder / "nowhere").string(), "", "", folder / "cache.json"));
  REQUIRE(none.at("files").size() == 1);
  CHECK(none.at("files")[0].at("sha256").is_null());
}

TEST_CASE("a sum is kept once the file has come to rest, and forgotten when the file changes") {
  const auto folder = fresh_folder("facts/cache");
  const auto data = folder / "data", cache = folder / "sums" / "cache.json";
  write_file_atomically(data, "abc");
  const auto sum = [&] {
    return json::parse(input_facts("", data.string(), "", cache)).at("files")[0].at("sha256").get<std::string>();
  };
  const std::string before = sum();
  CHECK_FALSE(fs::exists(cache));  // too fresh to be trusted
  std::this_thread::sleep_for(std::chrono::milliseconds(3100));
  CHECK(sum() == before);
  REQUIRE(fs::exists(cache));
  auto kept = json::parse(assay::support::read_file(cache));
  REQUIRE(kept.size() == 1);
  // That the cache is what answers shows when it is made to answer wrongly.
  kept.begin().value() = "planted";
  write_file_atomically(cache, kept.dump());
  CHECK(sum() == "planted");
  write_file_atomically(data, "abd");
  CHECK(sum() == assay::support::sha256_hex("abd"));
  write_file_atomically(cache, "garbage");
  CHECK(sum() == assay::support::sha256_hex("abd"));
}

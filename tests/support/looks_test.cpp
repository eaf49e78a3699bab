#include "support/looks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catch.h"
#include "support/files.h"

using namespace assay;
namespace fs = std::filesystem;

namespace {

support::Looks looks_of(const std::function<void()>& work) {
  support::Looks looks;
  const support::Looks::Recording recording(&looks);
  work();
  return looks;
}

void put(const fs::path& file, const std::string& text) { support::write_file_atomically(file, text); }

}  // namespace

TEST_CASE("each kind of look tells whether it would find the same again, and no more than that") {
  const fs::path folder = test::fresh_folder("support-looks");
  const fs::path file = folder / "file", absent = folder / "absent", link = folder / "link";
  put(file, "one");
  fs::create_directory(folder / "a");
  fs::create_directory_symlink("a", link);

  const support::Looks type = looks_of([&] { CHECK(support::is_file_at(file)); });
  const support::Looks nothing = looks_of([&] { CHECK_FALSE(support::is_file_at(absent)); });
  const support::Looks runs = looks_of([&] { CHECK_FALSE(support::may_execute(file)); });
  const support::Looks text = looks_of([&] { CHECK(support::read_file(file) == "one"); });
  const support::Looks leads = looks_of([&] { CHECK(support::canonical_or_same(link) == fs::canonical(folder) / "a"); });
  const auto all = [&] { return std::vector<bool>{type.same(), nothing.same(), runs.same(), text.same(), leads.same()}; };
  CHECK(all() == std::vector<bool>{true, true, true, true, true});

  // The same name, length and times, another text.
  struct stat before {};
  REQUIRE(::stat(file.c_str(), &before) == 0);
  const int fd = ::open(file.c_str(), O_WRONLY);
  REQUIRE(::pwrite(fd, "two", 3, 0) == 3);
  ::close(fd);
  const timespec times[2] = {before.st_atim, before.st_mtim};
  REQUIRE(::utimensat(AT_FDCWD, file.c_str(), times, 0) == 0);
  CHECK(all() == std::vector<bool>{true, true, true, false, true});
  put(file, "one");
  CHECK(all() == std::vector<bool>{true, true, true, true, true});
  // What was not there comes; what could not be executed can be; a link leads elsewhere.
  put(absent, "");
  CHECK(all() == std::vector<bool>{true, false, true, true, true});
  fs::remove(absent);
  REQUIRE(::chmod(file.c_str(), 0755) == 0);
  CHECK(all() == std::vector<bool>{true, true, false, true, true});
  REQUIRE(::chmod(file.c_str(), 0644) == 0);
  fs::remove(link);
  fs::create_directory(folder / "b");
  fs::create_directory_symlink("b", link);
  CHECK(all() == std::vector<bool>{true, true, true, true, false});
  // A file that has gone, or is a folder now.
  fs::remove(file);
  CHECK(all() == std::vector<bool>{false, true, true, false, false});
  fs::create_directory(file);
  CHECK(all() == std::vector<bool>{false, true, false, false, false});
}

TEST_CASE("looks that cannot be asked again are never the same, and only this thread's recording notes any") {
  const fs::path folder = test::fresh_folder("support-looks-spoiled");
  put(folder / "file", "one");
  CHECK(looks_of([] {}).same());
  CHECK_FALSE(looks_of([] { support::look_cannot_be_kept(); }).same());
  CHECK_FALSE(looks_of([&] { CHECK_THROWS(support::read_file(folder / "none")); }).same());
  CHECK_FALSE(looks_of([&] {
                put(folder / "long", std::string((1 << 20) + 1, 'x'));
                support::read_file(folder / "long");
              }).same());
  // The same question twice is one; with two answers there is none that could be found again.
  const support::Looks twice = looks_of([&] {
    CHECK(support::is_file_at(folder / "file"));
    CHECK_FALSE(support::is_folder_at(folder / "file"));
  });
  CHECK(twice.same());
  const support::Looks changed = looks_of([&] {
    CHECK_FALSE(support::is_file_at(folder / "new"));
    put(folder / "new", "");
    CHECK(support::is_file_at(folder / "new"));
  });
  CHECK_FALSE(changed.same());
  fs::remove(folder / "new");
  CHECK_FALSE(changed.same());
  support::look_cannot_be_kept();   // nobody records
  // Asking again, and what is set apart, notes nothing.
  const support::Looks apart = looks_of([&] {
    const support::Looks::Recording none(nullptr);
    support::read_file(folder / "file");
  });
  put(folder / "file", "two");
  CHECK(apart.same());
  int asked = 0;
  support::Looks looks;
  looks.add([&] { return ++asked < 3; });
  CHECK(looks.same());
  CHECK(looks.same());
  CHECK_FALSE(looks.same());
  looks.add([]() -> bool { throw std::runtime_error("no"); });
  asked = 0;
  CHECK_FALSE(looks.same());
}

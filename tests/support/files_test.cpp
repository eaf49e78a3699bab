#include "support/files.h"

#include <fstream>

#include "catch.h"

using namespace assay;

TEST_CASE("sha256 of the vectors in FIPS 180-2, appendix B") {
  CHECK(support::sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(support::sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(support::sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_CASE("a file hashes as its bytes do, over the size of a read") {
  const auto folder = test::fresh_folder("support-sha");
  const std::string bytes(3'000'001, 'x');
  support::write_file_atomically(folder / "big", bytes);
  CHECK(support::sha256_file(folder / "big") == support::sha256_hex(bytes));
  CHECK(support::read_file(folder / "big") == bytes);
}

TEST_CASE("an atomic write replaces, leaves no temporary file, and names the path it cannot write") {
  const auto folder = test::fresh_folder("support-atomic");
  support::write_file_atomically(folder / "a", "old");
  support::write_file_atomically(folder / "a", "new");
  CHECK(support::read_file(folder / "a") == "new");
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  CHECK_THROWS_WITH(support::write_file_atomically(folder / "no" / "a", "x"),
                    Catch::Contains("no/a: No such file or directory"));
  CHECK_THROWS_WITH(support::read_file(folder), Catch::Contains("Is a directory"));
  CHECK(support::file_holds(folder / "a", "new"));
  for (const char* other : {"ne", "newe", "nex", ""}) CHECK_FALSE(support::file_holds(folder / "a", other));
  CHECK_FALSE(support::file_holds(folder / "none", ""));
  CHECK_FALSE(support::file_holds(folder, ""));
  support::write_file_atomically(folder / "empty", "");
  CHECK(support::file_holds(folder / "empty", ""));
}

TEST_CASE("an atomic file takes its bytes in any order, and nothing of it is seen before it is committed") {
  const auto folder = test::fresh_folder("support-atomic-pieces");
  support::write_file_atomically(folder / "a", "old");
  {
    support::AtomicFile file(folder / "a");
    file.write(3, "def");
    file.write(0, "abc");
    CHECK(support::read_file(folder / "a") == "old");
    file.commit();
    CHECK(support::read_file(folder / "a") == "abcdef");
  }
  {
    support::AtomicFile file(folder / "a");
    file.write(0, "half");
  }
  CHECK(support::read_file(folder / "a") == "abcdef");
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
}

TEST_CASE("lines are appended to what is there") {
  const auto folder = test::fresh_folder("support-lines");
  {
    support::LineWriter lines(folder / "log");
    lines.write("one");
    lines.write("two");
  }
  support::LineWriter(folder / "log").write("three");
  CHECK(support::read_file(folder / "log") == "one\ntwo\nthree\n");
}

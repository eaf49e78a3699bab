// libFuzzer's stand-in where there is no clang: the corpus that it found worth keeping, and seeded inputs.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "catch.h"
#include "quant_case.h"
#include "quant_invariants.h"

using assay::fuzz::quant_finding;

namespace {

std::string finding_in(const std::vector<std::uint8_t>& bytes) { return quant_finding(bytes.data(), bytes.size()); }

}  // namespace

TEST_CASE("every mode keeps its promises on the corpus") {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(assay::test::source("tests/fuzz/corpus/quant"))) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    REQUIRE(file.good());
    CAPTURE(entry.path().filename().string());
    CHECK(finding_in(bytes) == "");
    ++files;
  }
  CHECK(files > 10);
}

TEST_CASE("every mode keeps its promises on seeded inputs") {
  std::mt19937 generator(20);
  for (int i = 0; i < 3000; ++i) {
    // Small matrices: a few blocks, whole and partial. The large ones are the corpus's.
    std::vector<std::uint8_t> bytes(11 + generator() % 120);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(generator());
    bytes[2] &= 0x7f;  // not the long rows
    const bool down = bytes[0] / 3 & 1;
    bytes[3] = static_cast<std::uint8_t>(bytes[3] % (down ? 40 : 4));
    bytes[4] = static_cast<std::uint8_t>(bytes[4] % (down ? 4 : 40));
    CAPTURE(i);
    REQUIRE(finding_in(bytes) == "");
  }
}

TEST_CASE("no bytes, and bytes that end early, are cases too") {
  const std::vector<std::uint8_t> bytes{0x13, 7, 4, 3, 33, 1, 2, 3, 0x80, 0x3f, 130, 1, 2, 3};
  for (std::size_t size = 0; size <= bytes.size(); ++size) CHECK(quant_finding(bytes.data(), size) == "");
  const auto drawn = assay::fuzz::draw(bytes.data(), bytes.size());
  CHECK(drawn.rows == 3);
  CHECK(drawn.cols == 33);
  CHECK(drawn.bits.size() == 99);
}

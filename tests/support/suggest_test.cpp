#include "support/suggest.h"

#include "catch.h"

using namespace assay::support;

TEST_CASE("edit distance counts a swap of neighbours once") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("abc", "") == 3);
  CHECK(edit_distance("nvfp4", "nvpf4") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("only a near word is suggested") {
  const std::vector<std::string> known = {"format", "mode", "hook", "blocking"};
  CHECK(nearest("fromat", known) == "format");
  CHECK(nearest("blcking", known) == "blocking");
  CHECK(nearest("temperature", known).empty());
  CHECK(did_you_mean("hok", known) == "; did you mean 'hook'?");
  CHECK(did_you_mean("zzz", known).empty());
}

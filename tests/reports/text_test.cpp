#include <clocale>

#include "catch.h"
#include "reports/text.h"

using namespace assay::report;

TEST_CASE("numbers, whatever the locale says") {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* locale : {"C", "de_DE.UTF-8", "C.UTF-8"}) {
    std::setlocale(LC_ALL, locale);
    CHECK(fixed(60.880, 1) == "60.9");
    CHECK(fixed(1234567.25, 1) == "1234567.2");
    CHECK(fixed(-0.04, 1) == "0.0");
    CHECK(fixed(-0.06, 1) == "-0.1");
    CHECK(shortest(0.1) == "0.1");
    CHECK(shortest(50) == "50");
    CHECK(rounded(1.0 / 3) == 0.333333333333);
    CHECK(rounded(5.299469827377981e-169) == 5.29946982738e-169);
    CHECK(p_value(0.0004) == "<.001");
    CHECK(p_value(0.0431) == ".043");
    CHECK(p_value(1) == "1.000");
    CHECK(p_value(0.9996) == "1.000");
    CHECK(as_published(8.1) == "8.10");
    CHECK(as_published(60.88) == "60.88");
    CHECK(as_published(56.4062) == "56.4062");
  }
  std::setlocale(LC_ALL, before.c_str());
}

TEST_CASE("width on a terminal") {
  CHECK(display_width("abc") == 3);
  CHECK(display_width("8.1‡") == 4);
  CHECK(display_width("→–") == 2);
  CHECK(display_width("表") == 2);
  CHECK(display_width("\xff\xfe") == 2);
  CHECK(display_width("") == 0);
}

TEST_CASE("a table is aligned, and a cell cannot break out of it") {
  CHECK(markdown_table({{"id", false}, {"x", true}}, {{"a|b", "1"}, {"line\nbreak", "10.0"}}) ==
        "| id         |    x |\n"
        "| ---------- | ---: |\n"
        "| a\\|b       |    1 |\n"
        "| line break | 10.0 |\n");
}

TEST_CASE("CSV quotes what needs it") {
  CHECK(csv_line({"a", "b,c", "say \"x\"", "two\nlines", ""}) == "a,\"b,c\",\"say \"\"x\"\"\",\"two\nlines\",\n");
}

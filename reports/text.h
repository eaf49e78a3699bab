// Cells and numbers of tables. Independent of the locale. Internal to reports/.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace assay::report {

std::string fixed(double value, int decimals);   // "60.9"; never "-0.0"
std::string shortest(double value);              // the fewest digits that read back as the same number
double rounded(double value);                    // to 12 significant digits: what libraries' versions do not change
std::string p_value(double p);                   // ".043", "<.001", "1.000"
std::string as_published(double percent);        // two decimals as papers print them, more if it had more

std::size_t display_width(const std::string& utf8);

struct Column {
  std::string header;
  bool right = false;                            // numbers
};
// A Markdown table whose columns are also aligned as plain text. Bars in cells are escaped, line breaks become spaces.
std::string markdown_table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows);

// The same for cells that are escaped already and hold no line break.
std::string aligned_table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows);

// One line of RFC 4180, ended by "\n".
std::string csv_line(const std::vector<std::string>& cells);

}  // namespace assay::report

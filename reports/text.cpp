#include "reports/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cmath>

namespace assay::report {
namespace {

std::string markdown_cell(const std::string& text) {
  std::string cell;
  for (const char c : text) {
    if (c == '|') cell += "\\|";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) cell += ' ';
    else cell += c;
  }
  return cell;
}

}  // namespace

std::string fixed(double value, int decimals) {
  std::array<char, 400> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, decimals).ptr;
  std::string number(text.data(), end);
  if (number.starts_with('-') && number.find_first_not_of("-0.") == std::string::npos) number.erase(0, 1);
  return number;
}

std::string shortest(double value) {
  std::array<char, 40> text;
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

double rounded(double value) {
  std::array<char, 40> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::scientific, 11).ptr;
  std::from_chars(text.data(), end, value);
  return value;
}

std::string p_value(double p) {
  if (p < 0.001) return "<.001";
  const std::string text = fixed(p, 3);
  return text.starts_with('0') ? text.substr(1) : text;
}

std::string as_published(double percent) {
  const std::string two = fixed(percent, 2), all = shortest(percent);
  double back = 0;
  std::from_chars(two.data(), two.data() + two.size(), back);
  return back == percent ? two : all;
}

std::size_t display_width(const std::string& utf8) {
  std::size_t width = 0;
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(utf8.data());
  auto left = static_cast<utf8proc_ssize_t>(utf8.size());
  while (left > 0) {
    utf8proc_int32_t point = 0;
    const auto bytes = utf8proc_iterate(at, left, &point);
    if (bytes <= 0) {  // not UTF-8: terminals show a replacement character a byte
      ++width;
      ++at;
      --left;
      continue;
    }
    width += static_cast<std::size_t>(std::max(0, utf8proc_charwidth(point)));
    at += bytes;
    left -= bytes;
  }
  return width;
}

std::string aligned_table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const Column& column : columns) widths.push_back(std::max<std::size_t>(3, display_width(column.header)));
  for (const auto& row : rows) {
    assert(row.size() == columns.size());
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string table;
  const auto add = [&](const auto& cell_of) {
    table += '|';
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const std::string cell = cell_of(i);
      const std::string space(widths[i] - display_width(cell), ' ');
      table += ' ' + (columns[i].right ? space + cell : cell + space) + " |";
    }
    table += '\n';
  };
  add([&](std::size_t i) { return columns[i].header; });
  add([&](std::size_t i) {
    return columns[i].right ? std::string(widths[i] - 1, '-') + ':' : std::string(widths[i], '-');
  });
  for (const auto& row : rows) add([&](std::size_t i) { return row[i]; });
  return table;
}

std::string markdown_table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::vector<Column> heads = columns;
  for (Column& head : heads) head.header = markdown_cell(head.header);
  std::vector<std::vector<std::string>> cells = rows;
  for (auto& row : cells)
    for (std::string& cell : row) cell = markdown_cell(cell);
  return aligned_table(heads, cells);
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += ',';
    if (cells[i].find_first_of(",\"\r\n") == std::string::npos) {
      line += cells[i];
      continue;
    }
    line += '"';
    for (const char c : cells[i]) line += c == '"' ? std::string("\"\"") : std::string(1, c);
    line += '"';
  }
  return line + '\n';
}

}  // namespace assay::report

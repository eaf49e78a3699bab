// A document as Markdown that reads as plain text too.
#include "reports/document.h"
#include "reports/templates.h"
#include "reports/text.h"

namespace assay::report {
namespace {

// Blanks at its ends stand outside of the asterisks, or they would be asterisks.
std::string bold(const std::string& words) {
  const std::size_t begin = words.find_first_not_of(' '), end = words.find_last_not_of(' ');
  if (begin == std::string::npos) return words;
  return words.substr(0, begin) + "**" + markdown_escape(words.substr(begin, end + 1 - begin)) + "**" + words.substr(end + 1);
}

std::string markdown_line(const Line& line) {
  std::string all;
  for (const Inline& piece : line) {
    if (piece.kind == Inline::Kind::code) all += markdown_code(piece.text);
    else if (piece.kind == Inline::Kind::strong) all += bold(piece.text);
    else all += markdown_escape(piece.text);
  }
  return all;
}

std::string cell_text(const Line& line) {   // inside a table a bar in a code span ends the cell, too
  std::string all;
  for (const char c : markdown_line(line)) {
    if (c == '|' && (all.empty() || all.back() != '\\')) all += '\\';
    all += c;
  }
  return all;
}

struct MarkdownWriter {
  std::string& out;

  void operator()(const Heading& heading) const {
    out += std::string(static_cast<std::size_t>(heading.level), '#') + " " + markdown_escape(heading.words) + "\n\n";
  }
  void operator()(const Paragraph& paragraph) const { out += markdown_line(paragraph.line) + "\n\n"; }
  void operator()(const List& list) const {
    for (const Line& item : list.items) out += "- " + markdown_line(item) + "\n";
    out += "\n";
  }
  void operator()(const TableBlock& table) const {
    if (!table.caption.empty()) out += markdown_escape(table.caption) + "\n\n";
    std::vector<Column> columns;
    for (const TableBlock::Head& head : table.heads) columns.push_back({markdown_escape(head.words), head.right});
    std::vector<std::vector<std::string>> rows;
    for (const auto& row : table.rows) {
      auto& cells = rows.emplace_back();
      for (const Line& cell : row) cells.push_back(cell_text(cell));
    }
    out += aligned_table(columns, rows) + "\n";
    for (const Line& note : table.notes) out += "- " + markdown_line(note) + "\n";
    if (!table.notes.empty()) out += "\n";
  }
  void operator()(const Picture& picture) const {
    out += "![" + markdown_escape(picture.caption) + "](" + picture.name + ".svg)\n\n";
  }
  void operator()(const Listing& listing) const {
    std::string plain;
    for (const char c : listing.words) plain += static_cast<unsigned char>(c) < 0x20 && c != '\n' ? ' ' : c;
    std::string fence = "```";
    while (plain.find(fence) != std::string::npos) fence += '`';
    out += fence + "\n" + plain + "\n" + fence + "\n\n";
  }
};

}  // namespace

std::string to_markdown(const Document& document, const Templates& templates) {
  std::string out;
  for (const Part* part : ordered(document, templates)) {
    std::string rendered;
    for (const Block& block : part->blocks) std::visit(MarkdownWriter{rendered}, block);
    out += filled(templates, part->id + ".md", rendered, markdown_escape(document.title));
  }
  while (out.ends_with("\n\n")) out.pop_back();
  return out;
}

}  // namespace assay::report

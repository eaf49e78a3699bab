// The tables of a document as LaTeX (booktabs).
#include "reports/document.h"
#include "reports/templates.h"

namespace assay::report {
namespace {

std::string tex_line(const Line& line) {
  std::string all;
  for (const Inline& piece : line) {
    if (piece.kind == Inline::Kind::code) all += "\\texttt{" + tex_escape(piece.text) + "}";
    else if (piece.kind == Inline::Kind::strong) all += "\\textbf{" + tex_escape(piece.text) + "}";
    else all += tex_escape(piece.text);
  }
  return all;
}

std::string table_text(const TableBlock& table, const std::string& caption) {
  std::string all = "\\begin{table}\n\\centering\n\\caption{" + tex_escape(caption) +
                    "}\n\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n\\begin{tabular}{";
  for (const auto& head : table.heads) all += head.right ? 'r' : 'l';
  all += "}\n\\toprule\n";
  for (std::size_t i = 0; i < table.heads.size(); ++i) all += (i > 0 ? " & " : "") + tex_escape(table.heads[i].words);
  all += " \\\\\n\\midrule\n";
  for (const auto& row : table.rows) {
    // A cell that begins with a bracket would be read as the optional argument of the \\ before it.
    for (std::size_t i = 0; i < row.size(); ++i) all += (i > 0 ? " & " : "{}") + tex_line(row[i]);
    all += " \\\\\n";
  }
  all += "\\bottomrule\n\\end{tabular}}\n";
  if (!table.notes.empty()) {
    all += "\n\\smallskip\\footnotesize\n";
    for (const Line& note : table.notes) all += tex_line(note) + "\\par\n";
  }
  return all + "\\end{table}\n\n";
}

}  // namespace

std::string to_tex(const Document& document, const Templates& templates) {
  std::string out = "% Needs \\usepackage{booktabs}, \\usepackage{graphicx} and \\usepackage[T1]{fontenc}; words that are not in the Latin\n% alphabet need lualatex or xelatex and a font that has them. Written by assay report.\n\n";
  for (const Part* part : ordered(document, templates)) {
    std::string rendered, heading = document.title;
    for (const Block& block : part->blocks) {
      if (const auto* words = std::get_if<Heading>(&block)) heading = words->words;
      if (const auto* table = std::get_if<TableBlock>(&block))
        rendered += table_text(*table, table->caption.empty() ? heading : table->caption);
    }
    out += filled(templates, part->id + ".tex", rendered, tex_escape(document.title));
  }
  return out;
}

}  // namespace assay::report

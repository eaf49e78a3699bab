// The tables of a document as LaTeX (booktabs), and its numbers as a machine-readable appendix.
#include <nlohmann/json.hpp>

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
  std::string out = "% Needs \\usepackage{booktabs}, \\usepackage{graphicx} and \\usepackage[T1]{fontenc}. Written by assay report.\n\n";
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

std::string to_appendix(const Document& document) {
  using nlohmann::ordered_json;
  ordered_json numbers = ordered_json::array();
  const auto take = [&](const Part& part, const Line& line) {
    for (const Inline& piece : line) {
      if (piece.kind != Inline::Kind::number) continue;
      ordered_json sources = ordered_json::array();
      for (const Source& source : piece.sources)
        sources.push_back({{"run", source.run > 0 ? ordered_json(source.run) : ordered_json(nullptr)},
                           {"id", source.id},
                           {"seed", source.run > 0 ? ordered_json(source.seed) : ordered_json(nullptr)},
                           {"step", source.step >= 0 ? ordered_json(source.step) : ordered_json(nullptr)},
                           {"metric", source.metric},
                           {"value", source.value}});
      numbers.push_back({{"part", part.id}, {"text", piece.text}, {"sources", std::move(sources)}});
    }
  };
  for (const Part& part : document.parts)
    for (const Block& block : part.blocks) {
      if (const auto* paragraph = std::get_if<Paragraph>(&block)) take(part, paragraph->line);
      if (const auto* list = std::get_if<List>(&block))
        for (const Line& item : list->items) take(part, item);
      if (const auto* table = std::get_if<TableBlock>(&block)) {
        for (const auto& row : table->rows)
          for (const Line& cell : row) take(part, cell);
        for (const Line& note : table->notes) take(part, note);
      }
    }
  const ordered_json all = {{"title", document.title}, {"numbers", std::move(numbers)}};
  return all.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace assay::report

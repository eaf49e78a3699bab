// The numbers of a document with their sources, a line each: for programs, and for grep.
#include <nlohmann/json.hpp>

#include "reports/document.h"

namespace assay::report {
namespace {

using nlohmann::ordered_json;

std::string one_line(const ordered_json& json) { return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

class Appendix {
 public:
  explicit Appendix(const std::string& title) : text_("{\"title\": " + one_line(title) + ",\n \"numbers\": [") {}

  void add(const std::string& part, const Line& line) {
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
      text_ += any_ ? ",\n" : "\n";
      text_ += one_line({{"part", part}, {"text", piece.text}, {"sources", std::move(sources)}});
      any_ = true;
    }
  }
  std::string end() && { return std::move(text_) + "\n]}\n"; }

 private:
  std::string text_;
  bool any_ = false;
};

}  // namespace

std::string to_appendix(const Document& document) {
  Appendix appendix(document.title);
  for (const Part& part : document.parts)
    for (const Block& block : part.blocks) {
      if (const auto* paragraph = std::get_if<Paragraph>(&block)) appendix.add(part.id, paragraph->line);
      if (const auto* list = std::get_if<List>(&block))
        for (const Line& item : list->items) appendix.add(part.id, item);
      if (const auto* table = std::get_if<TableBlock>(&block)) {
        for (const auto& row : table->rows)
          for (const Line& cell : row) appendix.add(part.id, cell);
        for (const Line& note : table->notes) appendix.add(part.id, note);
      }
    }
  return std::move(appendix).end();
}

}  // namespace assay::report

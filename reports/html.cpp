// A document as one HTML page that stands alone.
#include <array>

#include "reports/document.h"
#include "reports/templates.h"

namespace assay::report {
namespace {

constexpr const char* kPage = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{title}}</title>
<style>
{{style}}</style>
</head>
<body>
<main class="report">
{{body}}</main>
</body>
</html>
)";

constexpr const char* kStyle = R"(:root { color-scheme: light dark; }
body { margin: 0; }
.report { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
.report h2 { margin-top: 2.5rem; border-bottom: 1px solid #8888; }
.report h3 { margin-top: 1.75rem; }
.report h4 { margin: 1.25rem 0 .25rem; }
.report nav { font-size: .875rem; }
.report .scroll { overflow-x: auto; }
.report table { border-collapse: collapse; font-size: .875rem; }
.report caption { text-align: left; padding: .25rem 0; }
.report th, .report td { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top; }
.report .r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.report .n { cursor: help; text-decoration: underline dotted #8888 1px; text-underline-offset: .2em; }
.report .notes { font-size: .875rem; }
.report pre { padding: .6rem; border: 1px solid #8884; overflow-x: auto; }
.report figure { margin: 1rem 0; }
.report figure img { max-width: 100%; height: auto; background: #fff; }
.report figcaption { font-size: .875rem; }
)";

std::string base64(const std::string& bytes) {
  static constexpr const char* kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](std::size_t at) { return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0U; };
    const unsigned group = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    for (std::size_t k = 0; k < 4; ++k)
      out += i + k > bytes.size() ? '=' : kLetters[group >> (18 - 6 * k) & 63];
  }
  return out;
}

std::string source_text(const Source& source) {
  std::string all;
  if (source.run > 0)
    all += "run " + std::to_string(source.run) + " (" + source.id + ", seed " + std::to_string(source.seed) + ")";
  if (source.step >= 0) all += (all.empty() ? "" : ", ") + ("step " + std::to_string(source.step));
  if (!source.metric.empty()) all += (all.empty() ? "" : ", ") + source.metric;
  if (!source.value.empty()) all += ": " + source.value;
  return all;
}

std::string html_line(const Line& line) {
  std::string all;
  for (const Inline& piece : line) {
    const std::string words = html_escape(piece.text);
    switch (piece.kind) {
      case Inline::Kind::text: all += words; break;
      case Inline::Kind::code: all += "<code>" + words + "</code>"; break;
      case Inline::Kind::strong: all += "<strong>" + words + "</strong>"; break;
      case Inline::Kind::number: {
        std::string title;
        for (const Source& source : piece.sources) title += (title.empty() ? "" : "&#10;") + html_escape(source_text(source));
        all += "<span class=\"n\" title=\"" + title + "\">" + words + "</span>";
      }
    }
  }
  return all;
}

struct HtmlWriter {
  std::string& out;
  const Pictures& pictures;

  void operator()(const Heading& heading) const {
    const std::string tag = "h" + std::to_string(heading.level);
    out += "<" + tag + (heading.anchor.empty() ? "" : " id=\"" + html_escape(heading.anchor) + "\"") + ">" +
           html_escape(heading.words) + "</" + tag + ">\n";
  }
  void operator()(const Paragraph& paragraph) const { out += "<p>" + html_line(paragraph.line) + "</p>\n"; }
  void operator()(const List& list) const { items(list.items, ""); }
  void operator()(const TableBlock& table) const {
    out += "<div class=\"scroll\"><table>\n";
    if (!table.caption.empty()) out += "<caption>" + html_escape(table.caption) + "</caption>\n";
    out += "<thead><tr>";
    for (const auto& head : table.heads)
      out += std::string("<th scope=\"col\"") + (head.right ? " class=\"r\"" : "") + ">" + html_escape(head.words) + "</th>";
    out += "</tr></thead>\n<tbody>\n";
    for (const auto& row : table.rows) {
      out += "<tr>";
      for (std::size_t i = 0; i < row.size(); ++i)
        out += std::string("<td") + (table.heads[i].right ? " class=\"r\"" : "") + ">" + html_line(row[i]) + "</td>";
      out += "</tr>\n";
    }
    out += "</tbody>\n</table></div>\n";
    if (!table.notes.empty()) items(table.notes, " class=\"notes\"");
  }
  void operator()(const Picture& picture) const {
    const auto found = pictures.find(picture.name);
    if (found == pictures.end()) return;
    out += "<figure><img alt=\"" + html_escape(picture.caption) + "\" src=\"data:image/svg+xml;base64," +
           base64(found->second) + "\"><figcaption>" + html_escape(picture.caption) + "</figcaption></figure>\n";
  }
  void operator()(const Listing& listing) const {
    std::string lines;   // html_escape() has no line breaks
    for (std::size_t begin = 0; begin <= listing.words.size();) {
      const std::size_t end = std::min(listing.words.find('\n', begin), listing.words.size());
      lines += (begin == 0 ? "" : "\n") + html_escape(listing.words.substr(begin, end - begin));
      begin = end + 1;
    }
    out += "<pre><code>" + lines + "</code></pre>\n";
  }
  void items(const std::vector<Line>& lines, const std::string& attributes) const {
    out += "<ul" + attributes + ">\n";
    for (const Line& line : lines) out += "<li>" + html_line(line) + "</li>\n";
    out += "</ul>\n";
  }
};

// What is in it, and in the runs' part which runs: links.
std::string contents(const std::vector<const Part*>& parts) {
  const auto link = [](const Heading& heading, const std::string& words) {
    return "<a href=\"#" + html_escape(heading.anchor) + "\">" + html_escape(words) + "</a>";
  };
  std::string items;
  std::size_t count = 0;
  for (const Part* part : parts) {
    std::string title, inside;
    for (const Block& block : part->blocks) {
      const auto* heading = std::get_if<Heading>(&block);
      if (heading == nullptr || heading->anchor.empty()) continue;
      if (heading->level == 2) title = link(*heading, heading->words);
      if (heading->level == 3 && part->id == "runs") inside += (inside.empty() ? "" : ", ") + link(*heading, heading->words.substr(0, heading->words.find(": ")));
    }
    if (title.empty()) continue;
    ++count;
    items += "<li>" + title + (inside.empty() ? "" : ": " + inside) + "</li>\n";
  }
  return count < 3 ? "" : "<nav aria-label=\"Contents\"><ul>\n" + items + "</ul></nav>\n";
}

}  // namespace

std::string html_style() { return kStyle; }

std::string to_html_fragment(const Document& document, const Pictures& pictures, const Templates& templates) {
  std::string out;
  const std::vector<const Part*> parts = ordered(document, templates);
  for (const Part* part : parts) {
    if (out.empty() && part->id != "title") out = contents(parts);
    std::string rendered;
    for (const Block& block : part->blocks) std::visit(HtmlWriter{rendered, pictures}, block);
    out += "<section id=\"part-" + html_escape(part->id) + "\">\n" +
           filled(templates, part->id + ".html", rendered, html_escape(document.title)) + "</section>\n";
    if (part->id == "title") out += contents(parts);
  }
  return out;
}

std::string to_html(const Document& document, const Pictures& pictures, const Templates& templates) {
  const auto given = [&](const char* name, const std::string& ours) {
    const auto found = templates.find(name);
    return found == templates.end() ? ours : found->second;
  };
  return substitute(given("page.html", kPage), {{"title", html_escape(document.title)},
                                                {"style", given("style.css", kStyle)},
                                                {"body", to_html_fragment(document, pictures, templates)}});
}

Templates default_templates(const Document& document) {
  Templates templates = {{"page.html", kPage}, {"style.css", kStyle}, {"order", ""}};
  for (const Part& part : document.parts) {
    templates["order"] += part.id + "\n";
    for (const char* form : {".md", ".html", ".tex"}) templates[part.id + form] = "{{part}}";
  }
  return templates;
}

}  // namespace assay::report

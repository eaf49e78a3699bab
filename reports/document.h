// A report as a tree of parts, and its forms: Markdown, HTML, LaTeX, and the machine-readable appendix. Pure: the same
// document gives the same bytes. Every text in it is plain text: the forms escape all of it, so nothing that a user wrote
// can break out of its place in any of them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace assay::report {

struct Source {               // where a number comes from
  std::int64_t run = 0;       // the run's number in the registry; 0: of no run
  std::string id;             // its run id
  std::int64_t seed = 0, step = -1;   // step -1: not of a step
  std::string metric;         // "accuracy", a metric's key, or what was computed
  std::string value;          // the datum itself, in full
};

struct Inline {
  enum class Kind { text, code, strong, number };
  Kind kind = Kind::text;
  std::string text;
  std::vector<Source> sources;  // of a number
};
using Line = std::vector<Inline>;

inline Inline text(std::string words) { return {Inline::Kind::text, std::move(words), {}}; }
inline Inline code(std::string words) { return {Inline::Kind::code, std::move(words), {}}; }
inline Inline strong(std::string words) { return {Inline::Kind::strong, std::move(words), {}}; }
inline Inline number(std::string words, std::vector<Source> sources) {
  return {Inline::Kind::number, std::move(words), std::move(sources)};
}

struct Heading {
  int level = 2;              // 2: a part, 3: inside one
  std::string words, anchor;
};
struct Paragraph {
  Line line;
};
struct List {
  std::vector<Line> items;
};
struct TableBlock {
  struct Head {
    std::string words;
    bool right = false;       // numbers
  };
  std::string caption;
  std::vector<Head> heads;
  std::vector<std::vector<Line>> rows;   // as many cells as heads
  std::vector<Line> notes;    // below it
};
struct Picture {
  std::string name;           // accuracy: a file accuracy.svg beside the Markdown
  std::string caption;
};
struct Listing {              // a command or a snippet of a file
  std::string words;
};
using Block = std::variant<Heading, Paragraph, List, TableBlock, Picture, Listing>;

struct Part {
  std::string id;             // title, summary, results, …: the name of its template
  std::vector<Block> blocks;
};
struct Document {
  std::string title;
  std::vector<Part> parts;
};

// What a user may put in place of ours (docs/manual.md, "Templates"): file name -> text. PART.md, PART.html, PART.tex with
// {{part}} where the computed part goes and {{title}}; page.html with {{title}}, {{style}}, {{body}}; style.css; and
// `order`, one part's name a line (parts that it leaves out are left out).
using Templates = std::map<std::string, std::string>;
// The files of a template folder as they stand when nobody has changed them.
Templates default_templates(const Document& document);

// Pictures: name -> SVG text. Markdown refers to NAME.svg; HTML carries them inside.
using Pictures = std::map<std::string, std::string>;
std::string to_markdown(const Document& document, const Templates& templates = {});
// A whole page that asks for nothing outside of itself (style, pictures inside; a Content-Security-Policy that forbids more).
std::string to_html(const Document& document, const Pictures& pictures, const Templates& templates = {});
// The same without <html>: for a page that brings its own head. Classes are explained by html_style().
std::string to_html_fragment(const Document& document, const Pictures& pictures, const Templates& templates = {});
std::string html_style();
// A file to \input: the tables as booktabs, and no more.
std::string to_tex(const Document& document, const Templates& templates = {});
// {"title", "numbers": [{"part", "text", "sources": [{"run", "id", "seed", "step", "metric", "value"}]}]}: every number
// that has a source, in the order of the document.
std::string to_appendix(const Document& document);

// Text for the inside of an element or a quoted attribute; of Markdown prose and table cells; of LaTeX.
std::string html_escape(const std::string& plain);
std::string markdown_escape(const std::string& plain);
std::string markdown_code(const std::string& plain);   // with its backquotes
std::string tex_escape(const std::string& plain);

}  // namespace assay::report

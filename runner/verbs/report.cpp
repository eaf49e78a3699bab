#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "reports/log.h"
#include "runner/client.h"
#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/series_log.h"
#include "runner/series_report.h"
#include "runner/verbs/verbs.h"
#include "support/files.h"

namespace assay::runner {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string series, out, templates, write_templates;
  bool html = false, tex = false, json = false, no_pictures = false;
};

// All of it in one folder; each file whole or not there.
void write_folder(const fs::path& folder, const Options& options, const report::SeriesLog& log, const report::Document& document,
                  const report::Templates& templates) {
  make_folder(folder);
  const std::vector<report::Plot> plots = options.no_pictures ? std::vector<report::Plot>{} : report::plots(log);
  const std::vector<std::string> svgs = draw(plots, "svg"), pngs = draw(plots, "pngcairo");
  report::Pictures pictures;
  for (std::size_t i = 0; i < plots.size(); ++i) {
    pictures[plots[i].name] = svgs[i];
    support::write_file_atomically(folder / (plots[i].name + ".svg"), svgs[i]);
    support::write_file_atomically(folder / (plots[i].name + ".png"), pngs[i]);
  }
  support::write_file_atomically(folder / "report.md", report::to_markdown(document, templates));
  support::write_file_atomically(folder / "report.html", report::to_html(document, pictures, templates));
  support::write_file_atomically(folder / "report.json", report::to_appendix(document));
  if (options.tex) support::write_file_atomically(folder / "report.tex", report::to_tex(document, templates));
}

}  // namespace

std::function<int()> setup_report(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("SERIES", options->series, "a series of which something has been run or imported")->required();
  auto* out = app.add_option("--out", options->out, "write report.md, report.html, report.json and the pictures into this folder");
  auto* html = app.add_flag("--html", options->html, "print HTML, pictures inside, instead of Markdown");
  app.add_flag("--tex", options->tex, "the tables as LaTeX (booktabs): printed, or with --out report.tex besides");
  app.add_flag("--json", options->json, "print every number with its source")->excludes(html)->excludes(out);
  app.add_option("--templates", options->templates, "a folder of template files to use in place of ours");
  app.add_option("--write-templates", options->write_templates, "write our template files into this folder, and no report");
  app.add_flag("--no-pictures", options->no_pictures, "draw none");
  return [options] {
    const Paths paths = user_paths();
    Client::connect(paths);  // so that what has ended meanwhile is in the registry
    const auto registry = registry::Registry::open(paths.registry(), registry::Registry::Access::read_only);
    const report::Templates templates = options->templates.empty() ? report::Templates{} : read_templates(options->templates);
    const report::SeriesLog log = series_log(registry, options->series);
    report::Document document = report::series_document(log);
    if (!options->write_templates.empty()) {
      make_folder(options->write_templates);
      for (const auto& [name, text] : report::default_templates(document))
        support::write_file_atomically(fs::path(options->write_templates) / name, text);
      return static_cast<int>(kOk);
    }
    if (options->no_pictures || (options->out.empty() && !options->html))   // there is no file that a printed one could show
      for (report::Part& part : document.parts)
        std::erase_if(part.blocks, [](const report::Block& block) { return std::holds_alternative<report::Picture>(block); });
    if (!options->out.empty()) {
      write_folder(options->out, *options, log, document, templates);
      std::printf("%s\n", (fs::path(options->out) / "report.html").c_str());
      return static_cast<int>(kOk);
    }
    std::string text;
    if (options->json) text = report::to_appendix(document);
    else if (options->tex) text = report::to_tex(document, templates);
    else if (options->html) {
      report::Pictures pictures;
      const std::vector<report::Plot> plots = options->no_pictures ? std::vector<report::Plot>{} : report::plots(log);
      const std::vector<std::string> svgs = draw(plots, "svg");
      for (std::size_t i = 0; i < plots.size(); ++i) pictures[plots[i].name] = svgs[i];
      text = report::to_html(document, pictures, templates);
    } else {
      text = report::to_markdown(document, templates);
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner

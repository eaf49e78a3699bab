#include "runner/series_report.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "reports/log.h"
#include "runner/errors.h"
#include "runner/run_folder.h"
#include "runner/series_log.h"
#include "support/fd.h"
#include "support/files.h"

extern char** environ;

namespace assay::runner {
namespace {

namespace fs = std::filesystem;

// Gone with its files when the object goes.
struct ScratchFolder {
  fs::path path;
  ScratchFolder() {
    std::string name = (fs::temp_directory_path() / "assay-report-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error(name + ": " + std::strerror(errno));
    path = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
};

// Runs gnuplot on a file; what it complains of is in `log`.
void run_gnuplot(const fs::path& script, const fs::path& log) {
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  std::string program = "gnuplot", quiet = "-d", file = script.string();   // -d: no settings of the user's
  char* arguments[] = {program.data(), quiet.data(), file.data(), nullptr};
  pid_t child = -1;
  const int failed = ::posix_spawnp(&child, "gnuplot", &actions, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed == ENOENT)
    throw UserError(kFault, "gnuplot: it is not installed, so no picture can be drawn; install it (apt-get install gnuplot-nox), or "
                            "leave the pictures away with --no-pictures");
  if (failed != 0) throw UserError(kFault, "gnuplot: cannot be started (" + std::string(std::strerror(failed)) + ")");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw UserError(kFault, "gnuplot: it refused a picture: " + last_line(log) + "; leave the pictures away with --no-pictures");
}

}  // namespace

std::vector<std::string> draw(const std::vector<report::Plot>& plots, const std::string& terminal) {
  if (plots.empty()) return {};
  const ScratchFolder folder;
  std::string script;
  std::vector<fs::path> files;
  for (const report::Plot& plot : plots) {
    files.push_back(folder.path / plot.name);
    script += report::plot_script(plot, terminal, files.back().string());
  }
  support::write_file_atomically(folder.path / "script.gp", script);
  run_gnuplot(folder.path / "script.gp", folder.path / "log");
  std::vector<std::string> pictures;
  for (const fs::path& file : files) pictures.push_back(support::read_file(file));
  return pictures;
}

std::string series_report_html(const registry::Registry& registry, const std::string& series, bool pictures) {
  const report::SeriesLog log = series_log(registry, series);
  report::Pictures drawn;
  if (pictures) {
    const std::vector<report::Plot> plots = report::plots(log);
    const std::vector<std::string> svgs = draw(plots, "svg");
    for (std::size_t i = 0; i < plots.size(); ++i) drawn[plots[i].name] = svgs[i];
  }
  return report::to_html(report::series_document(log), drawn);
}

report::Templates read_templates(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error))
    throw UserError(kRefused, folder.string() + ": there is no such folder; `assay report SERIES --write-templates DIR` makes one");
  static const std::set<std::string> kParts = {"title", "summary", "results", "runs", "best", "formats", "causes", "environment", "next"};
  report::Templates templates;
  std::string lines;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string(), form = entry.path().extension().string();
    const bool part = (form == ".md" || form == ".html" || form == ".tex") && kParts.count(entry.path().stem().string()) != 0;
    if (part || name == "page.html" || name == "style.css" || name == "order") templates[name] = support::read_file(entry.path());
    else lines += (lines.empty() ? "" : "\n") + entry.path().string() + ": no template has this name; they are page.html, style.css, order and PART.md, PART.html, PART.tex";
  }
  if (const auto order = templates.find("order"); order != templates.end())
    for (std::size_t begin = 0; begin < order->second.size();) {
      const std::size_t end = std::min(order->second.find('\n', begin), order->second.size());
      const std::string name = order->second.substr(begin, end - begin);
      if (!name.empty() && kParts.count(name) == 0)
        lines += (lines.empty() ? "" : "\n") + (folder / "order").string() + ": there is no part '" + name + "'; parts are title, summary, results, runs, best, formats, causes, environment, next";
      begin = end + 1;
    }
  if (!lines.empty()) throw UserError(kRefused, lines);
  return templates;
}

}  // namespace assay::runner

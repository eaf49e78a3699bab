// The log of a made-up series in all its forms; golden files in tests/golden/reports (ASSAY_WRITE_GOLDEN=1 rewrites them).
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "catch.h"
#include "made.h"
#include "reports/grid.h"
#include "reports/log.h"
#include "reports/log_parts.h"
#include "reports/pictures.h"
#include "support/files.h"

using namespace assay::report;
using namespace assay::test;
using Catch::Contains;

namespace {

void check_golden(const std::string& name, const std::string& text) {
  const auto file = source("tests/golden/reports/" + name);
  if (std::getenv("ASSAY_WRITE_GOLDEN")) assay::support::write_file_atomically(file, text);
  CHECK(text == assay::support::read_file(file));
}

const Pictures kPictures = {{"accuracy", "<svg>a</svg>"}, {"score", "<svg>s</svg>"}};

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + word.size())) ++n;
  return n;
}

// Strings in every place that a user writes.
SeriesLog hostile(const std::string& words) {
  SeriesLog log = made_series();
  log.title = log.goal = log.notes = words;
  log.dates = log.next_steps = log.open_questions = log.side_problems = log.background = log.files = {words};
  log.commits = {{words, words}};
  for (LoggedRun& run : log.runs) {
    run.result.title = run.hypothesis = run.change = run.verdict = run.conclusion = words;
    run.notes = {words};
    run.changed = {{words, words}};
    run.recorded.outcome = run.recorded.script = run.recorded.log = words;
    run.folder = run.environment = run.code_commit = words;
    if (run.result.state != "succeeded") run.result.state_detail = words;
  }
  for (DeclaredCause& cause : log.causes) cause.name = cause.note = words;
  return log;
}

std::vector<GridRun> grid_of(const SeriesLog& log) {
  std::vector<GridRun> runs;
  for (const LoggedRun& run : log.runs) runs.push_back({run, log.id, {{"critic/score/mean", run.scores}}});
  return runs;
}

}  // namespace

TEST_CASE("golden log: Markdown, HTML, LaTeX, appendix, gnuplot") {
  const Document document = series_document(made_series());
  check_golden("log.md", to_markdown(document));
  check_golden("log.html", to_html(document, kPictures));
  check_golden("log.tex", to_tex(document));
  check_golden("log.json", to_appendix(document));
  std::string scripts;
  for (const Plot& plot : plots(made_series())) scripts += plot_script(plot, "svg", plot.name + ".svg");
  check_golden("log.gp", scripts);
}

TEST_CASE("golden tables of compare: every shape and form") {
  const auto runs = grid_of(made_series());
  const auto all_forms = [](const std::string& name, const Document& document) {
    check_golden(name + ".md", to_markdown(document));
    check_golden(name + ".csv", table_csv(document));
    check_golden(name + ".json", table_json(document));
    check_golden(name + ".html", to_html(document, {}));
  };
  all_forms("grid-plain", grid(runs, {}));
  GridOptions options;
  options.only_changed = true;
  options.sort_by = "-value";
  all_forms("grid-changed", grid(runs, options));
  options = {};
  options.metric = "critic/score/mean";
  options.stepwise = true;
  all_forms("grid-stepwise", grid(runs, options));
  options = {};
  options.group_by = "quant.format";
  all_forms("grid-groups", grid(runs, options));
  const std::vector<ProblemPair> pairs = {{0, "1 + 1?", "2", {"wrong", "#### 3", false}, {"correct", "#### 2", true}},
                                          {1, "", "", {"correct", "a | b\n`c`", true}, {"unparsable", "<script>", false}},
                                          {2, "", "", {"correct", "x", true}, {"correct", "x", true}}};
  all_forms("problems", problems_document("f", "g", 20, pairs));
}

TEST_CASE("runs that agree in every problem are one notice; where nothing was learned, nothing is called settled") {
  SeriesLog log = made_series();
  for (LoggedRun& run : log.runs)
    if (run.result.id == "d" || run.result.id == "f" || run.result.id == "g") {
      run.result.first = made_point(0, 16, 200, 0, "");
      run.result.last = made_point(20, 20, 200, run.result.seed, "");
    }
  std::string text = to_markdown(series_document(log));
  CHECK_THAT(text, Contains("`d`, `f` and `g` are identical in both figures (8.00 → 10.00, the same problems right)"));
  CHECK(count(text, "are identical in both figures") == 1);
  CHECK_THAT(text, !Contains("No run learned"));   // bf16 did
  for (LoggedRun& run : log.runs)
    if (run.result.last) run.result.last = run.result.first;
  text = to_markdown(series_document(log));
  CHECK(count(text, "No run learned") == 1);
}

TEST_CASE("no run is lost, and each record ends with its command") {
  const SeriesLog log = made_series();
  const std::string text = to_markdown(series_document(log));
  for (const LoggedRun& run : log.runs) {
    INFO(run.result.id << " " << run.result.seed);
    CHECK_THAT(text, Contains("assay run " + std::to_string(run.result.number) + "\n"));
    CHECK_THAT(text, Contains(run.result.id));
  }
  for (const char* reason : {"out of memory", "wrong data", "a later run of the same id and seed replaces it", "to repeat run 4", "Not run:** never", "is lost", "waits for a slot"})
    if (std::string(reason) != "is lost") CHECK_THAT(text, Contains(reason));
  CHECK(count(text, "```\nassay run") >= log.runs.size());
}

TEST_CASE("percentages and counts agree in the appendix") {
  const auto appendix = nlohmann::json::parse(to_appendix(series_document(made_series())));
  std::size_t checked = 0;
  for (const auto& number : appendix.at("numbers")) {
    REQUIRE_FALSE(number.at("sources").empty());
    for (const auto& source : number.at("sources")) CHECK_FALSE(source.at("metric").get<std::string>().empty());
    if (number.at("part") != "runs" || number.at("sources").size() != 1 || number.at("sources")[0].at("metric") != "accuracy") continue;
    long long k = 0, n = 0;
    REQUIRE(std::sscanf(number.at("sources")[0].at("value").get<std::string>().c_str(), "%lld of %lld", &k, &n) == 2);
    // "9.00 %", "18 of 200", "5.8–13.8": the share, the count, the interval around it.
    const std::string text = number.at("text").get<std::string>();
    const double percent = 100.0 * static_cast<double>(k) / static_cast<double>(n);
    long long right = 0, all = 0;
    double low = 0, high = 0;
    if (std::sscanf(text.c_str(), "%lld of %lld", &right, &all) == 2) CHECK((right == k && all == n));
    else if (std::sscanf(text.c_str(), "%lf–%lf", &low, &high) == 2) CHECK((low <= percent && percent <= high && low < high));
    else CHECK(std::atof(text.c_str()) == Approx(percent).margin(text.find(" %") == std::string::npos ? 0.05 : 0.005));
    ++checked;
  }
  CHECK(checked >= 40);
}

TEST_CASE("every figure of every table says where it comes from") {
  const std::set<std::string> names = {"run", "seed", "seeds"};   // these name or count runs
  for (const SeriesLog& log : {made_series(), hostile("7 and 8")}) {
    std::size_t figures = 0;
    for (const Part& part : series_document(log).parts)
      for (const Block& block : part.blocks) {
        const auto* table = std::get_if<TableBlock>(&block);
        if (table == nullptr) continue;
        for (const auto& row : table->rows)
          for (std::size_t i = 0; i < row.size(); ++i) {
            if (!table->heads[i].right || names.count(table->heads[i].words) != 0) continue;
            for (const Inline& piece : row[i]) {
              INFO(part.id << " " << table->heads[i].words << ": " << piece.text);
              if (piece.text.find_first_of("0123456789") == std::string::npos) continue;
              CHECK((piece.kind == Inline::Kind::number && !piece.sources.empty()));
              for (const Source& source : piece.sources) CHECK((source.run > 0 && !source.metric.empty()));
              ++figures;
            }
          }
      }
    CHECK(figures > 100);
  }
}

TEST_CASE("figures inside of a sentence get their sources, words with digits in them do not") {
  const std::vector<Source> sources = {{1, "g", 1, 20, "accuracy", "x"}};
  std::string marked;
  for (const Inline& piece : sourced("e13g against e13f: +51.5 points, 95 % interval 29.2 to 73.9 (p < .001, -0.3), within ±5.1, step-20 figure 3.", sources))
    marked += piece.kind == Inline::Kind::number ? "[" + piece.text + "]" : piece.text;
  CHECK(marked == "e13g against e13f: [+51.5] points, 95 % interval [29.2] to [73.9] (p < [.001], [-0.3]), within ±5.1, step-20 figure [3].");
}

TEST_CASE("pictures show every run: more than one panel holds go to the next, hundreds are counted in words") {
  SeriesLog log = made_series();
  const LoggedRun one = log.runs.front();
  const auto curves = [](const Plot& plot) { return count(plot.body, " with linespoints "); };
  const auto of = [&](std::size_t runs) {
    log.runs.clear();
    for (std::size_t i = 0; i < runs; ++i) {
      log.runs.push_back(one);
      log.runs.back().result.id = "arm-" + std::to_string(i);
      log.runs.back().result.number = static_cast<std::int64_t>(i + 1);
    }
    return plots(log).front();
  };
  for (const std::size_t runs : {1U, 6U, 7U, 15U, 24U, 25U, 60U}) {
    const Plot plot = of(runs);
    INFO(runs);
    REQUIRE(plot.name == "accuracy");
    CHECK(curves(plot) == runs);
    CHECK(count(plot.body, "\nplot ") == (runs + 5) / 6);
    CHECK(plot.note.empty());
    for (std::size_t i = 0; i < runs; ++i) CHECK_THAT(plot.body, Contains("'arm-" + std::to_string(i) + "'"));
  }
  const Plot many = of(333);
  CHECK(curves(many) == 60);
  CHECK_THAT(many.note, Contains("the first 60 of 333 are drawn"));
  CHECK_THAT(to_markdown(series_document(log)), Contains("the first 60 of 333 are drawn"));
}

TEST_CASE("causes: found, ruled out, of effect, confounded, missing") {
  const SeriesLog log = made_series();
  const auto arms = arms_of(log);
  const CauseTable table = judge_causes(log, arms);
  std::map<std::string, const CauseRow*> rows;
  for (const CauseRow& row : table.rows)
    if (!row.proposed) rows[row.cause.name] = &row;
  REQUIRE(table.found() != nullptr);
  CHECK(table.found()->cause.name == "straight-through estimator");
  CHECK(table.margin == Approx(5.7));
  CHECK(rows.at("format")->word == "ruled out");
  CHECK(rows.at("hook")->word == "effect");
  CHECK(rows.at("hook and blocking")->word == "undecided");
  CHECK(rows.at("hook and blocking")->with == std::vector<std::string>{"hook", "blocking"});
  CHECK(rows.at("gone")->word == "undecided");
  CHECK_THAT(rows.at("gone")->reason, Contains("there is no run of z"));
  const auto proposed = std::find_if(table.rows.begin(), table.rows.end(), [](const CauseRow& row) { return row.proposed; });
  REQUIRE(proposed != table.rows.end());
  CHECK(proposed->keys == std::vector<std::string>{"quant.format"});
  // Without the cause found the margin is five points.
  SeriesLog without = made_series();
  std::erase_if(without.runs, [](const LoggedRun& run) { return run.result.id == "g" || run.result.id == "d" || run.result.id == "h"; });
  std::erase_if(without.causes, [](const DeclaredCause& cause) { return cause.name != "format"; });
  const auto few = arms_of(without);
  CHECK(judge_causes(without, few).found() == nullptr);
  CHECK(judge_causes(without, few).margin == 5);
}

TEST_CASE("while the largest gain is not significant no smaller one is called the cause") {
  SeriesLog log = made_series();
  for (LoggedRun& run : log.runs)   // far apart from seed to seed
    if (run.result.id == "g") run.result.last = made_point(20, run.result.seed == 2 ? 70 : 190, 200, 0, run.quant_label);
  const std::string text = to_markdown(series_document(log));
  CHECK_THAT(text, Contains("**No cause is settled; the largest gain: straight-through estimator.** g against f: ") &&
                       Contains("seeds would decide if the difference stays as it is") && Contains("With an effect of their own: hook") &&
                       Contains("helps, but the larger gain of straight-through estimator is not settled"));
  CHECK(text.find("The cause found") == std::string::npos);
  const auto arms = arms_of(log);
  const CauseTable table = judge_causes(log, arms);
  REQUIRE(table.leading() != nullptr);
  CHECK(table.leading()->cause.name == "straight-through estimator");
  CHECK(table.margin == 5);
  // What to run next is the number of seeds that would show it: one fewer would not.
  const Contrast& c = table.leading()->contrast;
  const double factor = table.leading()->adjusted / c.p;
  const auto seeds = seeds_to_show(*c.points, c.deviation, factor);
  REQUIRE(seeds);
  CHECK(std::any_of(table.next.begin(), table.next.end(), [&](const NextRun& next) {
    return next.what == "g and f with " + std::to_string(*seeds) + " seeds";
  }));
  CHECK(judge_causes(made_series(), arms_of(made_series())).leading() == nullptr);
}

TEST_CASE("an undecided cause says what would decide it") {
  SeriesLog log = made_series();
  log.causes = {{"a", "f", "d", "", ""}};
  // The two differ by far more from seed to seed than the margin, in either direction.
  for (LoggedRun& run : log.runs)
    if (run.result.id == "f") run.result.last = made_point(20, run.result.seed == 2 ? 20 : 80, 200, 0, run.quant_label);
  const auto arms = arms_of(log);
  const CauseTable table = judge_causes(log, arms);
  CHECK(table.rows.front().word == "undecided");
  CHECK_THAT(table.rows.front().reason, Contains("seeds would decide") || Contains("lies outside the margin"));
}

TEST_CASE("pairing is refused on different test sets, with the reason, and the unpaired test made") {
  SeriesLog log = made_series();
  for (LoggedRun& run : log.runs)
    if (run.result.id == "g") run.result.last->data_sha256 = "d2";
  const auto arms = arms_of(log);
  const Contrast c = contrast(*find_arm(arms, "g"), *find_arm(arms, "f"));
  REQUIRE(c.points);
  CHECK_THAT(c.not_paired, Contains("different test files"));
  CHECK_THAT(c.test, Contains("two proportions"));
  CHECK_THAT(to_markdown(series_document(log)), Contains("not compared problem by problem: they were measured on different test files"));
}

TEST_CASE("several seeds: the wider interval and the larger p") {
  const SeriesLog log = made_series();
  const auto arms = arms_of(log);
  const Contrast c = contrast(*find_arm(arms, "h"), *find_arm(arms, "g"));
  CHECK(c.seeds == 3);
  CHECK(*c.points == Approx(-7.5));
  CHECK(c.p >= mcnemar_exact(0, 45) );
  const auto over = level(*find_arm(arms, "g"), true);
  CHECK(over->seeds == 3);
  CHECK(over->correct == 168 + 171 + 174);
  CHECK(over->percent.mean == Approx(85.5));
  CHECK(find_arm(arms, "left-out") == nullptr);
  CHECK_FALSE(level(*find_arm(arms, "failing"), true));
}

TEST_CASE("hostile names stay inside their places in every form") {
  const std::vector<std::string> names = {"<script>alert(1)</script>", "a | b || c", "line\nbreak\r\n# heading", "\\end{document} % $x_1$ #&^~",
                                          "`` ` ```", "\" onload=\"x", "{{body}} {{part}}", "](javascript:x) ![", "\x01\x1b[31m", "- x", "1. x"};
  const Document plain = series_document(hostile("plain"));
  const std::size_t rows = count(to_html(plain, {}), "<tr>"), tables = count(to_tex(plain), "\\toprule");
  // Digits in a name may be taken for a figure and get a span of their own.
  const auto tags_in = [](const std::string& html) { return count(html, "<") - 2 * count(html, "<span class=\"n\""); };
  const std::size_t tags = tags_in(to_html(plain, {}));
  const auto bars = [](const std::string& markdown) {
    std::vector<std::size_t> all;
    for (std::size_t at = 0; at < markdown.size();) {
      const std::size_t end = std::min(markdown.find('\n', at), markdown.size());
      const std::string line = markdown.substr(at, end - at);
      if (line.starts_with("| ")) {
        std::size_t n = 0;
        for (std::size_t i = 0; i < line.size(); ++i)
          if (line[i] == '|' && (i == 0 || line[i - 1] != '\\')) ++n;
        all.push_back(n);
      }
      at = end + 1;
    }
    return all;
  };
  for (const std::string& name : names) {
    INFO(name);
    const Document document = series_document(hostile(name));
    const std::string html = to_html(document, {}), markdown = to_markdown(document), tex = to_tex(document);
    CHECK(count(html, "<tr>") == rows);
    CHECK(tags_in(html) == tags);   // no tag more than with plain names
    CHECK(html.find("<script>") == std::string::npos);
    CHECK(html.find("\" onload=\"") == std::string::npos);
    CHECK(bars(markdown) == bars(to_markdown(plain)));
    CHECK(markdown.find("\n# heading") == std::string::npos);
    CHECK(count(tex, "\\toprule") == tables);
    CHECK(tex.find("\\end{document}") == std::string::npos);
    CHECK(tex.find('\x1b') == std::string::npos);
    CHECK(html.find('\x1b') == std::string::npos);
    CHECK(nlohmann::json::accept(to_appendix(document)));
    // LaTeX: braces that are not escaped are balanced.
    int depth = 0;
    for (std::size_t i = 0; i < tex.size(); ++i) {
      if (tex[i] == '\\') ++i;
      else if (tex[i] == '{') ++depth;
      else if (tex[i] == '}') --depth;
    }
    CHECK(depth == 0);
    const auto named = [](const std::string& before) {
      SeriesLog ids = made_series();
      for (LoggedRun& run : ids.runs) run.result.id = before + run.result.id;
      return plots(ids);
    };
    const std::vector<Plot> pictures = named(name), usual = named("x");
    REQUIRE(pictures.size() == usual.size());
    for (std::size_t i = 0; i < pictures.size(); ++i) CHECK(count(pictures[i].body, "\n") == count(usual[i].body, "\n"));
  }
  CHECK(gnuplot_quoted("it's\n$x") == "'it''s $x'");
  CHECK(markdown_code("a`b") == "``a`b``");
  CHECK(markdown_escape("quant.apply_during") == "quant.apply_during");
}

TEST_CASE("LaTeX takes the tables, whatever the names in them are") {
  if (std::system("pdflatex --version > /dev/null 2>&1") != 0) {
    report_skipped("LaTeX", "pdflatex is not installed (texlive-latex-base, texlive-latex-recommended)");
    return;
  }
  const auto folder = fresh_folder("latex");
  std::string tables = to_tex(series_document(made_series()));
  for (const char* name : {"\\end{document} % $x_1$ #&^~", "`` ` \"\\", "<script> | [x] [", "±5 −3 → ≥ ‡ … é ß"}) tables += to_tex(series_document(hostile(name)));
  assay::support::write_file_atomically(folder / "all.tex", "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n"
                                                            "\\begin{document}\n" + tables + "\\clearpage\n\\end{document}\n");
  const int code = std::system(("cd '" + folder.string() + "' && pdflatex -interaction=nonstopmode -halt-on-error all.tex > out 2>&1").c_str());
  const std::string said = assay::support::read_file(folder / "out");
  INFO(said.substr(said.size() > 1500 ? said.size() - 1500 : 0));
  CHECK(code == 0);
  CHECK(said.find("Overfull \\hbox") == std::string::npos);
}

TEST_CASE("templates: order, parts, page; what is put in is not looked at again") {
  const Document document = series_document(made_series());
  Templates templates = default_templates(document);
  CHECK(to_markdown(document, templates) == to_markdown(document));
  CHECK(to_html(document, kPictures, templates) == to_html(document, kPictures));
  CHECK(to_tex(document, templates) == to_tex(document));
  templates["order"] = "next\nsummary\n";
  templates["next.md"] = "before {{part}} after {{title}} {{other}}\n";
  const std::string text = to_markdown(document, templates);
  CHECK_THAT(text, Contains("before ## Next steps") && Contains("after A made-up series {{other}}") && Contains("## Summary"));
  CHECK(text.find("## Results") == std::string::npos);
  templates = {{"page.html", "<html>{{body}}</html>"}, {"summary.html", "<b>mine</b>"}};
  const std::string page = to_html(document, {}, templates);
  CHECK_THAT(page, Contains("<b>mine</b>") && !Contains("Content-Security-Policy"));
}

TEST_CASE("an HTML page asks for nothing outside of itself") {
  const std::string page = to_html(series_document(made_series()), kPictures);
  CHECK_THAT(page, Contains("default-src 'none'") && Contains("data:image/svg+xml;base64,PHN2Zz5hPC9zdmc+"));
  CHECK(page.find("http://") == std::string::npos);
  CHECK(page.find("https://") == std::string::npos);
  CHECK(page.find(" src=\"") == page.find(" src=\"data:"));
}

TEST_CASE("property: whatever the runs are, every table holds all of them and every form stands") {
  std::mt19937 random(5);
  const auto pick = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(n)); };
  const std::vector<std::string> states = {"succeeded", "succeeded", "failed", "lost", "running", "queued", "killed", "stalled", "skipped"};
  for (int round = 0; round < 60; ++round) {
    SeriesLog log = made_series();
    log.runs.resize(static_cast<std::size_t>(pick(std::ssize(log.runs) + 1)));
    for (LoggedRun& run : log.runs) {
      run.result.state = states[static_cast<std::size_t>(pick(9))];
      if (pick(4) == 0) run.result.first.reset();
      if (pick(4) == 0) run.result.last.reset();
      if (run.result.last && pick(4) == 0) run.result.last->outcomes.clear();
      if (run.result.last && pick(6) == 0) run.result.last->step = 10;
      if (pick(8) == 0) run.result.excluded = "no";
      if (pick(5) == 0) run.scores.clear();
    }
    const Document document = series_document(log);
    const std::string markdown = to_markdown(document);
    for (const LoggedRun& run : log.runs) CHECK_THAT(markdown, Contains("assay run " + std::to_string(run.result.number) + "\n"));
    CHECK(to_markdown(series_document(log)) == markdown);
    CHECK(nlohmann::json::accept(to_appendix(document)));
    for (const Part& part : document.parts)
      for (const Block& block : part.blocks)
        if (const auto* table = std::get_if<TableBlock>(&block))
          for (const auto& row : table->rows) CHECK(row.size() == table->heads.size());
    GridOptions options;
    const std::vector<std::string> sorts = {"", "-value", "difference", "quant.format", "state"};
    options.sort_by = sorts[static_cast<std::size_t>(pick(5))];
    options.only_changed = pick(2) == 0;
    options.stepwise = pick(2) == 0;
    const auto runs = grid_of(log);
    const auto rows = nlohmann::json::parse(table_json(grid(runs, options))).at("tables");
    CHECK((runs.empty() ? rows.empty() : rows.at(0).at("rows").size() == runs.size()));
    options = {};
    options.group_by = "quant.format";
    std::size_t in_groups = 0;
    const auto groups = nlohmann::json::parse(table_json(grid(runs, options)));
    if (!runs.empty())
      for (const auto& row : groups.at("tables").at(0).at("rows"))
        in_groups += static_cast<std::size_t>(std::stoul(row.at("runs").get<std::string>()) + std::stoul(row.at("without a value").get<std::string>()));
    CHECK(in_groups == runs.size());
  }
}

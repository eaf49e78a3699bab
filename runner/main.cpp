// assay: queue quantized-RL ablations, run them, keep everything, compare.
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>

#include "runner/errors.h"
#include "runner/verbs/verbs.h"
#include "support/suggest.h"

using namespace assay::runner;

namespace {

// One sentence a line on stderr; a series file may have several faults.
int tell(const std::string& text, int code) {
  std::fflush(stdout);
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::fprintf(stderr, "assay: %s\n", text.substr(begin, end - begin).c_str());
    begin = end + 1;
  }
  return code;
}

int refuse_command_line(const CLI::ParseError& error, const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> known;
  for (const Verb& verb : verbs())
    if (!verb.hidden) known.emplace_back(verb.name);
  if (argc > 1 && app.get_subcommands().empty() && argv[1][0] != '-')
    return tell(std::string("command line: there is no verb '") + argv[1] + "'" +
                    assay::support::did_you_mean(argv[1], known) + "; type `assay --help`",
                kUsage);
  std::string help = "assay --help";
  if (!app.get_subcommands().empty()) help = "assay " + app.get_subcommands().front()->get_name() + " --help";
  std::string what = error.what();
  for (char& c : what)
    if (c == '\n') c = ' ';
  return tell("command line: " + what + "; type `" + help + "`", kUsage);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Queue quantized-RL ablations, run them, keep everything, and compare.", "assay");
  app.set_version_flag("--version", std::string("assay ") + ASSAY_VERSION);
  app.require_subcommand(1);
  app.footer("Exit codes: 0 all well, 1 a fault of the machine, 2 bad command line, 3 a series, config or input is refused,\n"
             "4 a run did not succeed, 5 no such run, 6 doctor found an error, 7 the daemon cannot be had, 130 interrupted.");
  std::function<int()> chosen;
  // The options of one verb are declared, not those of all, unless it is about them all (help, completions, the manual page).
  const Verb* asked = nullptr;
  for (const Verb& verb : verbs())
    if (argc > 1 && std::strcmp(verb.name, argv[1]) == 0 && !verb.of_all) asked = &verb;
  for (const Verb& verb : verbs()) {
    if (asked != nullptr && asked != &verb) continue;
    CLI::App* sub = app.add_subcommand(verb.name, verb.summary);
    if (verb.hidden) sub->group("");
    const std::function<int()> action = verb.setup(*sub);
    sub->callback([&chosen, action] { chosen = action; });
  }
  try {
    app.parse(argc, argv);
    return chosen();
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return refuse_command_line(error, app, argc, argv);
  } catch (const UserError& error) {
    return tell(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return tell("memory: there is not enough; end other programs", kFault);
  } catch (const std::exception& error) {
    return tell(error.what(), kFault);
  }
}

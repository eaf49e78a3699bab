// What assay has in place of runner/web: it becomes assay-web, the program beside it that is the same command line with
// cpp-httplib linked, and with it OpenSSL, Brotli and what they need. A command that speaks no HTTP, which is all but two,
// does not wait for those to be loaded.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "runner/errors.h"
#include "runner/exporting.h"
#include "runner/paths.h"
#include "runner/web/mlflow_import.h"
#include "runner/web/serve.h"
#include "support/files.h"

namespace assay::runner {
namespace {

[[noreturn]] void become_assay_web() {
  std::string line = support::read_file("/proc/self/cmdline");   // each word ends with a zero
  std::vector<char*> argv;
  for (std::size_t begin = 0; begin < line.size(); begin = line.find('\0', begin) + 1) argv.push_back(line.data() + begin);
  argv.push_back(nullptr);
  const std::filesystem::path program = program_folder() / "assay-web";
  std::fflush(nullptr);
  ::execv(program.c_str(), argv.data());
  throw UserError(kFault, program.string() + ": cannot be executed (" + std::strerror(errno) +
                              "); build it (make build), and keep it beside assay");
}

}  // namespace

void web::speak_http() { become_assay_web(); }

// Only after speak_http().
void web::serve(const Paths&, const ServeOptions&) { become_assay_web(); }
std::vector<MlflowRun> export_to_mlflow(const MlflowTarget&, const std::vector<report::ExportedRun>&) { become_assay_web(); }

std::vector<MlflowImported> import_mlflow(const Paths&, const MlflowSource&) { become_assay_web(); }

}  // namespace assay::runner

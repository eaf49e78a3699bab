#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "runner/errors.h"
#include "runner/protocol.h"
#include "runner/submit.h"
#include "runner/verbs/verbs.h"

namespace assay::runner {

std::function<int()> setup_add(CLI::App& app) {
  struct Options : SubmitOptions {
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  add_what_options(app, *options);
  app.add_flag("--doctor", options->doctor, "do the preflight first, as `run` does");
  app.add_flag("--strict", options->strict, "with --doctor: refuse when it finds an error");
  add_json_flag(app, options->json);
  return [options] {
    const Paths paths = user_paths();
    Client client = Client::connect(paths);
    if (options->strict) options->doctor = true;
    std::vector<std::string> labels;
    const std::vector<std::int64_t> numbers = submit(paths, client, *options, &labels);
    if (options->json) {
      std::printf("%s\n", dump({{"numbers", numbers}}).c_str());
      return static_cast<int>(kOk);
    }
    for (std::size_t i = 0; i < numbers.size(); ++i)
      std::printf("%lld %s\n", static_cast<long long>(numbers[i]), labels[i].c_str());
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner

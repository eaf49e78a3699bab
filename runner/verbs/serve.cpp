#include <memory>

#include "runner/errors.h"
#include "runner/verbs/verbs.h"
#include "runner/web/serve.h"

namespace assay::runner {

std::function<int()> setup_serve(CLI::App& app) {
  const auto options = std::make_shared<web::ServeOptions>();
  app.add_option("--port", options->port, "8713 if not given; 0: any that is free")->check(CLI::Range(0, 65535));
  app.add_option("--host", options->host,
                 "the address to listen on; 127.0.0.1 if not given. Any other shows every run to whoever reaches it, "
                 "without password or encryption");
  app.add_flag("--allow-actions", options->allow_actions,
               "let the page queue, end and repeat runs; the address printed then holds the token for it");
  add_json_flag(app, options->json);
  return [options] {
    web::speak_http();
    web::serve(user_paths(), *options);
    return static_cast<int>(kOk);
  };
}

}  // namespace assay::runner

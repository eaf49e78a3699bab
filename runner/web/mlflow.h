// MLflow's REST interface (version 2.0 of it, which MLflow 1 to 3 speak). Internal to the exporter and the importer.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "runner/web/http.h"

namespace assay::runner {

class Mlflow {
 public:
  // Throws UserError when it is no address.
  explicit Mlflow(const std::string& address);
  // "runs/create" and the like. Throw UserError: no answer (kFault), or what the server said (kRefused).
  nlohmann::json post(const std::string& what, const nlohmann::json& body);
  nlohmann::json get(const std::string& what, const std::string& query);   // null: there is no such thing

 private:
  nlohmann::json answer(const std::string& what, bool may_be_missing, const std::function<web::Response()>& ask);

  std::string address_;
  web::HttpClient client_;
};

}  // namespace assay::runner

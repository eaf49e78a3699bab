#include "trainer/verbs/json_lines.h"

#include <istream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

namespace assay::train {

void answer_json_lines(std::istream& in, std::ostream& out,
                       const std::function<nlohmann::json(const nlohmann::json&)>& answer) {
  std::string line;
  while (std::getline(in, line)) {
    nlohmann::json result;
    try {
      const auto object = nlohmann::json::parse(line);
      if (!object.is_object()) throw std::runtime_error("this line is not a JSON object");
      result = answer(object);
    } catch (const std::exception& error) {
      result = {{"error", error.what()}};
    }
    out << result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  }
}

}  // namespace assay::train

// Reading of a task file for the verbs that take one.
#pragma once

#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "trainer/grpo/exit_code.h"
#include "trainer/tasks/config.h"

namespace assay::train {

// Throws BadInput. When the file has several errors, all but the last go to stderr here, a line each: main prints one.
inline tasks::TaskConfig read_task_config(const std::filesystem::path& file) {
  try {
    return tasks::TaskConfig::read(file);
  } catch (const std::runtime_error& error) {
    const std::string text = error.what();
    const auto last = text.rfind('\n');
    if (last == std::string::npos) throw BadInput(text);
    std::fprintf(stderr, "%s\n", text.substr(0, last).c_str());
    throw BadInput(text.substr(last + 1));
  }
}

}  // namespace assay::train

// Counts and means over what the doctor measured, for its findings and its report.
#pragma once

#include <cstdio>
#include <map>
#include <string>

#include "trainer/grpo/doctor.h"

namespace assay::train {

// printf into a string, 511 characters at most.
template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

struct Count {
  std::int64_t with = 0, all = 0;
};
std::map<std::string, Count> by_projection(const Measurements& m);  // adapter tensors with a gradient, by q_proj, k_proj, …
Count total(const Measurements& m);

struct MeanError {
  double weight = 0, activation = 0;  // dB
  std::int64_t weights = 0, activations = 0;
};
// Over projections: where a wrapper and its base layer both quantize, the second finds numbers that are rounded already,
// and its error of next to nothing says nothing; the larger error of the two counts.
MeanError mean_error(const Measurements& m);

}  // namespace assay::train

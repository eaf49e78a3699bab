// Runs in the formats of other programs. Pure: rows in, bytes out; the same rows give the same bytes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace assay::report {

struct ExportedOutcome {
  std::int64_t index = 0;
  std::string outcome;
};

struct ExportedEvaluation {
  std::int64_t step = 0, problems = 0, correct = 0, format_right = 0, arithmetic_right = 0;
  std::string quant, trained_quant, data_sha256;
  std::vector<ExportedOutcome> outcomes;
};

struct ExportedPoint {
  std::int64_t step = 0;
  double time = 0;                       // unix seconds of its line in metrics.jsonl
  std::string key;
  double value = 0;                      // may be NaN or infinite
};

struct ExportedRun {
  std::int64_t number = 0, seed = 0;
  std::string series, id, title, hypothesis, baseline, state, detail, config_sha256, commit, folder;
  double created = 0, started = 0, ended = 0;              // unix seconds; 0: not yet
  std::vector<std::pair<std::string, std::string>> config; // "quant.format" -> its value as JSON
  std::vector<ExportedPoint> points;                       // by step, then key
  std::vector<ExportedEvaluation> evaluations;             // by step
};

// RFC 4180. One line a value: run, series, id, seed, step, time, metric, value. NaN and infinities are the words nan,
// inf and -inf, as in metrics.jsonl.
std::string export_metrics_csv(const std::vector<ExportedRun>& runs);
// One line a run, with every configuration key that any of them has as a column; `-` where one has not.
std::string export_runs_csv(const std::vector<ExportedRun>& runs);
// One line an evaluation, and one line a test problem.
std::string export_evaluations_csv(const std::vector<ExportedRun>& runs);
std::string export_outcomes_csv(const std::vector<ExportedRun>& runs);

// Which accuracies were measured under another quantization than trained under: "step 20 measured under none, trained under
// nvfp4-te-w4a4-…"; empty: none. Programs that know one number a step show it beside.
std::string other_quant_words(const ExportedRun& run);

// Everything of a run as one object; an array of them, or one a line.
std::string export_json(const std::vector<ExportedRun>& runs);
std::string export_jsonl(const std::vector<ExportedRun>& runs);

// A TensorBoard event file: records of length, masked CRC-32C, bytes, masked CRC-32C (TFRecord), each an Event message of
// tensorflow/core/util/event.proto. Scalars are single precision there. The accuracy of each evaluation is the scalar
// eval/accuracy; hypothesis and configuration are text summaries.
std::string export_tensorboard(const ExportedRun& run);
// TFRecord's checksum: ((crc >> 15 | crc << 17) + 0xa282ead8) of the Castagnoli CRC.
std::uint32_t masked_crc32c(const std::string& bytes);

}  // namespace assay::report

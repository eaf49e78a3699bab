// From a trainer's console to metrics.jsonl: what trainer.metrics = "verl", "trl" and "regex" mean.
//
// The supervisor does it while the trainer runs, so that everything downstream (the stall watchdog, ingest, verify,
// bundles) sees one kind of run, with the time at which each line came.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "runner/console/parser.h"

namespace assay::runner {

class ConsoleTail {
 public:
  // `kind` and `regex` as trainer.metrics and trainer.metrics_regex have them. Reads stdout.log and stderr.log of the run
  // folder from their beginnings. Throws std::runtime_error when the pattern cannot be used.
  ConsoleTail(std::filesystem::path folder, const std::string& kind, const std::string& regex);

  // Takes in what is new: appends to metrics.jsonl, and once, when there was much text and no match, an event of kind
  // "finding" to events.jsonl. Throws std::runtime_error "PATH: REASON"; the next call tries what could not be written again.
  void poll();
  // The last time: a last line without its newline is taken, and a console that never matched is told of.
  void finish();

 private:
  struct Stream {
    std::filesystem::path file;
    std::unique_ptr<console::LineParser> parser;
    std::int64_t offset = 0, lines = 0;
    bool skipping = false;           // in a line that is too long
  };
  void read(Stream& stream, bool last);
  void take(Stream& stream, std::string_view line, bool whole, std::string& text);
  void tell_no_match();

  std::filesystem::path folder_;
  std::string kind_;
  Stream streams_[2];
  std::string unwritten_;            // lines for metrics.jsonl that did not fit on the disk
  std::int64_t matched_ = 0;
  bool told_ = false;
  double first_text_ = 0;            // unix seconds; 0: nothing came yet
};

}  // namespace assay::runner

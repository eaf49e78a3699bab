// Which causes are ruled out, which was found, which are still open, and what would settle those: computed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reports/arms.h"

namespace assay::report {

struct CauseRow {
  DeclaredCause cause;
  bool proposed = false;              // not declared: a pair that differs in exactly one config key
  std::vector<std::string> keys;      // in which the pair differs
  Contrast contrast;
  double adjusted = 1;                // p, Holm over the causes that have one
  // found: the largest gain of all, and significant; ruled out: the interval lies within the margin; effect: significant,
  // and not within the margin; undecided: none of these.
  std::string word;
  std::string reason;                 // a plain sentence
  std::vector<std::string> with;      // other causes that the pair changes too: it tests none of them alone
  std::vector<Contrast> offers;       // pairs that say something instead
  std::vector<std::string> offer_reasons;   // one each
};

struct NextRun {                      // a run that would settle causes still open
  std::string id;                     // an existing run to be repeated or finished; empty: a new one
  std::string what;                   // a sentence
  std::string command;                // what to type; empty: the snippet is to be added to a series first
  std::string snippet;                // TOML of a new run
  std::vector<std::string> settles;   // names of causes
};

struct CauseTable {
  std::vector<CauseRow> rows;         // declared, in their order, then proposed ones
  double margin = 5;                  // points
  std::string margin_reason;
  const CauseRow* found() const;
  // The largest gain, where it is not settled but something speaks for it: its own p before Holm's correction, or smaller
  // gains that are significant, none of which is called found while this may be the cause. nullptr: none.
  const CauseRow* leading() const;
  std::int64_t not_listed = 0;        // further pairs that differ in one key
  std::vector<NextRun> next;          // the one that settles most first
};

CauseTable judge_causes(const SeriesLog& log, const std::vector<Arm>& arms, double alpha = 0.05);

}  // namespace assay::report

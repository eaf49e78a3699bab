// `assay import mlflow`: runs of an MLflow server become runs that were never run here, to compare with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runner/importing.h"
#include "runner/paths.h"

namespace assay::runner {

struct MlflowSource {
  std::string address;               // http://127.0.0.1:5000
  std::string experiment;            // by name
  std::string series;                // the id it gets here; empty: made from the experiment's name
  // The metric that is the test accuracy, a share from 0 to 1, and what it was measured on: how many problems, or the test
  // file itself, which also makes differences to runs measured on it possible. All empty: accuracies are only known of runs
  // that assay logged there.
  std::string accuracy;
  std::int64_t problems = 0;
  std::string test;
};

struct MlflowImported {
  std::string name, id, run;         // there: name and id; here: run id
  std::int64_t seed = 1, number = 0;
  bool present = false;              // was there already, as it is now
  std::string left_out;              // why it was not taken: it has not ended there; the rest is empty then
  std::vector<std::string> missing;  // what is not known of it
};

// Every run of the experiment that has ended: metrics with all their steps, state, times, tags; parameters that are config
// keys here become its configuration, all of them are kept in its folder (mlflow.json). Its id is made from its name there
// (the tag assay.run, where assay logged it), its seed from the parameter train.seed or seed, 1 without; runs that would
// share both get the first digits of MLflow's id behind the name. Throws UserError. Cost: a request a run and metric.
std::vector<MlflowImported> import_mlflow(const Paths& paths, const MlflowSource& source);

}  // namespace assay::runner

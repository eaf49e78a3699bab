// Runs on a cluster under Slurm: sbatch starts a supervisor on a node (`assay slurm-task`), which does there what it does
// here; squeue and the run folder, on a file system that the nodes share, say what becomes of it.
//
// Attempts that start at the same moment and ask for the same become one job array. Each has slurm.json in its folder
// (slurm_words.h), so that the next daemon finds its job. Slurm may requeue a job (a node that failed, preemption): the
// run then waits again, and goes on from its checkpoint under the same attempt.
//
// An exit record of the supervisor is the truth, except when it was killed and we did not ask: then Slurm's word decides
// whether it was cancelled or comes back. Where the cluster has accounting, an attempt is over once sacct has said how its
// job ended (state, exit code, time, memory), which becomes an event of the run; after kAccountingLooks it is over anyhow.
#pragma once

#include <asio/steady_timer.hpp>
#include <set>

#include "runner/executors/executor.h"
#include "runner/executors/slurm_words.h"

namespace assay::runner {

class SlurmExecutor : public Executor {
 public:
  explicit SlurmExecutor(const ExecutorContext& context);
  ~SlurmExecutor() override;

  const char* name() const override { return "slurm"; }
  bool uses_this_machine() const override { return false; }
  std::string refusal(const nlohmann::json& config) const override;
  void start(const std::vector<Attempt>& attempts) override;
  void adopt(const Attempt& attempt) override;
  void end(std::int64_t number, const KillRequest& request) override;
  bool pause(std::int64_t number, bool paused) override;
  std::string where(std::int64_t number) const override;

 private:
  struct Live;
  using LivePtr = std::shared_ptr<Live>;
  using Batch = std::vector<LivePtr>;
  LivePtr add(const Attempt& attempt);
  void submit(const std::shared_ptr<Batch>& batch);
  void submit_later(const std::shared_ptr<Batch>& batch, const std::string& why);
  void submitted(const Batch& batch, std::int64_t job);
  void look_soon(double seconds);
  void look();
  void heard(const std::vector<slurm::Row>& rows);
  void heard_of(const LivePtr& live, const slurm::Row* row);
  void forgotten(const LivePtr& live);
  bool settle_by_record(const LivePtr& live, bool over);
  void settle_without_record(const LivePtr& live, const std::string& state);
  void tell_to_end(const LivePtr& live, bool runs);
  void over(const LivePtr& live, const Ending& ending, double when);
  void ask_accounting(const LivePtr& live, const Ending& ending, double when, int looks);
  void finish(const LivePtr& live, const Ending& ending, double when);
  void guarded(const LivePtr& live, const std::function<void()>& work);

  ExecutorContext context_;
  std::map<std::int64_t, LivePtr> live_;   // run number -> its attempt
  asio::steady_timer timer_;
  double every_;                           // seconds between two looks
  bool looking_ = false, soon_ = false;
  std::string unreachable_;                // what squeue last complained of
  bool accounting_;                        // there is sacct, and it has not said that the cluster has none
};

}  // namespace assay::runner

// Runs on this machine: a supervisor process for each attempt, which outlives the daemon (docs/run-folder.md).
#pragma once

#include "runner/executors/executor.h"

namespace assay::runner {

class LocalExecutor : public Executor {
 public:
  explicit LocalExecutor(const ExecutorContext& context);
  ~LocalExecutor() override;

  const char* name() const override { return "local"; }
  bool uses_this_machine() const override { return true; }
  std::string refusal(const nlohmann::json& config) const override;
  void start(const std::vector<Attempt>& attempts) override;
  void adopt(const Attempt& attempt) override;
  void end(std::int64_t number, const KillRequest& request) override;
  bool pause(std::int64_t number, bool paused) override;
  std::string where(std::int64_t number) const override;

 private:
  struct Live;
  using LivePtr = std::shared_ptr<Live>;
  LivePtr add(const Attempt& attempt);
  void spawn(const LivePtr& live);
  void read_report(const LivePtr& live);
  void settle(const LivePtr& live);
  void settle_later(const LivePtr& live, int milliseconds);
  void watch(const LivePtr& live);
  void over(const LivePtr& live, const Ending& ending, double when);
  void guarded(const LivePtr& live, const char* doing, const std::function<void()>& work);

  ExecutorContext context_;
  std::map<std::int64_t, LivePtr> live_;   // starting and running
};

}  // namespace assay::runner

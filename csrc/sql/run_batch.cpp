#include "sql/run_batch.h"

#include <numeric>
#include <utility>

namespace finestep {

RunBatch::RunBatch(std::shared_ptr<SqlRunner> runner, std::vector<Database> databases,
                   std::vector<std::unique_ptr<Job>> jobs, const QueryLimits& limits)
    : runner_(std::move(runner)),
      databases_(std::move(databases)),
      jobs_(std::move(jobs)),
      limits_(limits) {
  open(jobs_.size());
}

void RunBatch::start(const std::shared_ptr<RunBatch>& batch, JobQueue& queue) {
  std::vector<std::size_t> tasks(batch->jobs_.size());
  std::iota(tasks.begin(), tasks.end(), std::size_t{0});
  queue.add(batch, tasks, false);
}

bool RunBatch::perform(std::size_t task, bool alone) {
  Job& job = *jobs_[task];
  if (alone) {
    runner_->connections.clear();
  }
  QueryReport report = runner_->run(databases_[job.database], job.sql, limits_, cancelled(),
                                    job.rows, QueryPurpose::run);
  if (report.status != QueryStatus::ok) {
    job.rows.clear();
  }
  if (report.out_of_memory && !alone) {
    return false;
  }
  job.report = std::move(report);
  job.is_done = true;
  close(1);
  return true;
}

}  // namespace finestep

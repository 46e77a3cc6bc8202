// Queries whose rows are wanted.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "sql/runner.h"
#include "sql/stored_rows.h"
#include "threads/job_queue.h"

namespace finestep {

class RunBatch : public Batch {
 public:
  // One query on one of the databases, and its outcome.
  struct Job {
    std::size_t database = 0;
    std::string sql;
    QueryReport report;
    StoredRows rows;
    std::atomic<bool> is_done{false};  // the other fields no longer change
  };

  RunBatch(std::shared_ptr<SqlRunner> runner, std::vector<Database> databases,
           std::vector<std::unique_ptr<Job>> jobs, const QueryLimits& limits);

  // Hands all tasks to the queue.
  static void start(const std::shared_ptr<RunBatch>& batch, JobQueue& queue);
  bool perform(std::size_t task, bool alone) override;

  // A job may be read once it, or the whole batch, is done.
  std::vector<std::unique_ptr<Job>>& jobs() { return jobs_; }

 private:
  std::shared_ptr<SqlRunner> runner_;
  std::vector<Database> databases_;
  std::vector<std::unique_ptr<Job>> jobs_;
  QueryLimits limits_;
};

}  // namespace finestep

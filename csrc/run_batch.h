// Queries whose rows are wanted.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "job_queue.h"
#include "sql_runner.h"
#include "stored_rows.h"

namespace finestep {

class RunBatch : public Batch {
 public:
  // One query on one of the databases, and what came of it.
  struct Job {
    std::size_t database = 0;
    std::string sql;
    QueryReport report;
    StoredRows rows;
  };

  RunBatch(std::shared_ptr<SqlRunner> runner, std::vector<Database> databases,
           std::vector<std::unique_ptr<Job>> jobs, const QueryLimits& limits);

  // Hands all tasks to the queue.
  static void start(const std::shared_ptr<RunBatch>& batch, JobQueue& queue);
  bool perform(std::size_t task, bool alone, TaskWatch& watch) override;

  // To be read once the batch is done, or no task of it runs.
  std::vector<std::unique_ptr<Job>>& jobs() { return jobs_; }

 private:
  std::shared_ptr<SqlRunner> runner_;
  std::vector<Database> databases_;
  std::vector<std::unique_ptr<Job>> jobs_;
  QueryLimits limits_;
};

}  // namespace finestep

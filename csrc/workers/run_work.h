// Queries whose rows are wanted, as work for workers.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sql/query.h"
#include "sql/runner.h"
#include "workers/counts.h"
#include "workers/requests.h"
#include "workers/work.h"

namespace finestep {

class RunWork : public Work {
 public:
  struct Job {
    std::size_t database = 0;
    std::string sql;
  };
  // Gets each answer as it comes; its views hold only then.
  using Receiver = std::function<void(const RunAnswer&)>;

  RunWork(std::vector<Database> databases, std::vector<Job> jobs, const QueryLimits& limits,
          std::chrono::nanoseconds latest, WorkCounts& counts, Receiver receiver);

  [[nodiscard]] bool is_done() const override { return num_open_ == 0; }
  [[nodiscard]] std::size_t num_open() const override { return num_open_; }
  [[nodiscard]] std::size_t wanted_place() const override;
  std::string_view share(Lease lease, std::size_t place, std::size_t num_queries) override;
  bool take(Lease lease, std::string_view message) override;
  void lose(Lease lease, const RunningQuery* query, Loss loss) override;

 private:
  void answer(const RunAnswer& answer);
  void fail(std::size_t job, QueryReport report);

  std::vector<Database> databases_;
  std::vector<Job> jobs_;
  QueryLimits limits_;
  std::chrono::nanoseconds latest_;
  WorkCounts* counts_;
  Receiver receiver_;
  std::deque<std::size_t> waiting_;
  std::unordered_map<Lease, std::vector<std::size_t>> lent_;
  std::vector<bool> is_answered_;
  std::vector<int> num_crashes_;
  std::size_t num_open_;
  MessageWriter writer_;
};

}  // namespace finestep

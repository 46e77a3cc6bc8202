#include <pybind11/native_enum.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "python/answers.h"
#include "python/asked_pairs.h"
#include "python/bindings.h"
#include "python/calls.h"
#include "python/database_list.h"
#include "python/gil.h"
#include "sql/match_batch.h"
#include "sql/run_batch.h"
#include "sql/runner.h"
#include "sql/sqlite_library.h"
#include "threads/job_queue.h"

namespace py = pybind11;

namespace finestep {
namespace {

constexpr std::chrono::milliseconds kSlice(50);
constexpr std::chrono::milliseconds kPatience(800);  // for what cannot be interrupted

struct EngineSettings {
  int threads;
  std::int64_t max_connections;
  std::int64_t gold_cache_bytes;
  std::int64_t max_heap_bytes;
  std::int64_t verdict_cache_bytes;
};

class SqlEngine {
 public:
  SqlEngine(std::shared_ptr<SqliteLibrary> library, const EngineSettings& settings)
      : library_(std::move(library)), settings_(settings) {
    begin();
  }
  SqlEngine(const SqlEngine&) = delete;
  SqlEngine& operator=(const SqlEngine&) = delete;
  SqlEngine(SqlEngine&&) = delete;
  SqlEngine& operator=(SqlEngine&&) = delete;
  ~SqlEngine() { close(); }

  PyResults run(const PyJobs& jobs, std::int64_t max_rows, std::int64_t max_bytes,
                double timeout_s) {
    begin_after_fork();
    DatabaseList databases;
    std::vector<std::unique_ptr<RunBatch::Job>> listed;
    for (auto& [database, sql] : read_jobs(jobs, databases)) {
      listed.push_back(std::make_unique<RunBatch::Job>());
      listed.back()->database = database;
      listed.back()->sql = std::move(sql);
    }
    const QueryLimits limits{.max_rows = max_rows, .max_bytes = max_bytes, .timeout_s = timeout_s};
    const auto queue = queue_;
    const auto batch =
        std::make_shared<RunBatch>(runner_, databases.found(), std::move(listed), limits);
    RunBatch::start(batch, *queue);
    wait(*queue, batch);
    PyResults results;
    Statuses statuses;
    for (auto& job : batch->jobs()) {
      if (job->is_done) {
        const StoredRows& rows = job->rows;
        const std::vector<std::string_view> columns(rows.columns().begin(), rows.columns().end());
        results.append(result_of(job->report, columns, rows.bytes(), rows.num_rows(),
                                 rows.num_columns(), statuses));
        job->rows.clear();
      } else {
        results.append(py::none());
      }
    }
    return results;
  }

  PyMatches match(const PyPairs& pairs, const std::optional<PyFlags>& ordered,
                  const ComparisonSettings& comparison, bool early_exit, bool utf8_only,
                  std::int64_t max_rows, std::int64_t max_bytes, double timeout_s) {
    begin_after_fork();
    DatabaseList databases;
    auto listed = read_pairs(pairs, ordered, comparison.ordered, databases);
    MatchSettings settings{};
    settings.comparison = comparison;
    settings.limits = {.max_rows = max_rows, .max_bytes = max_bytes, .timeout_s = timeout_s};
    settings.early_exit = early_exit;
    settings.utf8_only = utf8_only;
    const auto queue = queue_;
    const auto found = databases.found();
    AskedPairs asked(*verdicts_, found, std::move(listed), settings, num_verdicts_reused_);
    const auto batch = std::make_shared<MatchBatch>(runner_, queue, found, asked.taken(), settings);
    {
      const ReleasedGil released;
      batch->start();
    }
    wait(*queue, batch);
    return match_result(std::move(asked).with(batch->reports(), batch->unit_of_pair()));
  }

  void close() {
    if (queue_ && getpid() == process_) {
      const ReleasedGil released;
      queue_->close(kPatience);
      runner_->connections.clear();
    }
  }

  Counters counters() {
    begin_after_fork();
    return {runner_->num_queries_run, runner_->num_golds_reused, num_verdicts_reused_,
            queue_->most_at_once()};
  }

 private:
  void begin() {
    library_->limit_heap(settings_.max_heap_bytes);
    runner_ = std::make_shared<SqlRunner>(library_, settings_.max_connections,
                                          settings_.gold_cache_bytes);
    queue_ = std::make_shared<JobQueue>(settings_.threads, library_->gate());
    verdicts_ = std::make_shared<VerdictStore>(settings_.verdict_cache_bytes);
    process_ = getpid();
  }

  // A child process has the memory of its parent and none of its threads. What they held is left
  // where it is.
  void begin_after_fork() {
    if (getpid() != process_) {
      static_cast<void>(new std::shared_ptr<SqlRunner>(std::move(runner_)));
      static_cast<void>(new std::shared_ptr<JobQueue>(std::move(queue_)));
      static_cast<void>(new std::shared_ptr<VerdictStore>(std::move(verdicts_)));
      library_ = std::make_shared<SqliteLibrary>(library_->path());
      begin();
    }
  }

  // Waits for a batch, in slices, so that Ctrl-C gets through.
  template <typename SomeBatch>
  void wait(JobQueue& queue, const std::shared_ptr<SomeBatch>& batch) {
    auto patience = kPatience;
    while (true) {
      bool has_ended = false;
      {
        const ReleasedGil released;
        has_ended = queue.wait(*batch, kSlice);
        if (batch->cancelled()) {  // by close(); what cannot be interrupted is not waited for
          patience -= kSlice;
          has_ended = has_ended || patience.count() <= 0;
        }
      }
      if (has_ended) {
        return;
      }
      if (PyErr_CheckSignals() != 0) {
        const py::error_already_set interrupt;
        {
          const ReleasedGil released;
          queue.cancel(batch, kPatience);
        }
        throw interrupt;
      }
    }
  }

  std::shared_ptr<SqliteLibrary> library_;
  EngineSettings settings_;
  std::shared_ptr<SqlRunner> runner_;
  std::shared_ptr<JobQueue> queue_;
  std::shared_ptr<VerdictStore> verdicts_;
  std::atomic<std::int64_t> num_verdicts_reused_{0};
  pid_t process_ = 0;
};

constexpr auto kEngineDoc =
    "Runs queries on SQLite databases. Its entry point is finestep_fast.sql.Engine.";
constexpr auto kRunDoc =
    "Run [(path, sql)]. A result is (status, columns, rows, truncated, message, elapsed_ms, "
    "size_bytes, invalid_utf8), or None where the work was cancelled.";
constexpr auto kMatchDoc =
    "Compare [(path, predicted, gold)]. A report is (gold_failed, status, message, elapsed_ms, "
    "verdict, score), or None where the work was "
    "cancelled. ordered: one flag per pair, else that of comparison.";

}  // namespace

void bind_engine(py::module_& module) {
  py::native_enum<QueryStatus>(module, "QueryStatus", "enum.Enum", "How a query ended.")
      .value("ok", QueryStatus::ok)
      .value("error", QueryStatus::error)
      .value("timeout", QueryStatus::timeout)
      .value("too_large", QueryStatus::too_large)
      .value("denied", QueryStatus::denied)
      .value("database_unreadable", QueryStatus::database_unreadable)
      .finalize();
  py::class_<SqlEngine>(module, "SqlEngine", kEngineDoc)
      .def(py::init([](const std::shared_ptr<SqliteLibrary>& library, int threads,
                       std::int64_t max_connections, std::int64_t gold_cache_bytes,
                       std::int64_t max_heap_bytes, std::int64_t verdict_cache_bytes) {
             return std::make_unique<SqlEngine>(
                 library, EngineSettings{.threads = threads,
                                         .max_connections = max_connections,
                                         .gold_cache_bytes = gold_cache_bytes,
                                         .max_heap_bytes = max_heap_bytes,
                                         .verdict_cache_bytes = verdict_cache_bytes});
           }),
           py::arg("library"), py::kw_only(), py::arg("threads"), py::arg("max_connections"),
           py::arg("gold_cache_bytes"), py::arg("max_heap_bytes"), py::arg("verdict_cache_bytes"))
      .def("run", &SqlEngine::run, py::arg("jobs"), py::kw_only(), py::arg("max_rows"),
           py::arg("max_bytes"), py::arg("timeout_s"), kRunDoc)
      .def("match", &SqlEngine::match, py::arg("pairs"), py::arg("ordered"), py::arg("comparison"),
           py::kw_only(), py::arg("early_exit"), py::arg("utf8_only"), py::arg("max_rows"),
           py::arg("max_bytes"), py::arg("timeout_s"), kMatchDoc)
      .def("counters", &SqlEngine::counters,
           "Queries run, golds and verdicts that were remembered, the most at the same time.")
      .def("close", &SqlEngine::close, "Stop running queries and close every connection.");
}

}  // namespace finestep

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "python/bindings.h"
#include "python/database_list.h"
#include "python/enum_members.h"
#include "python/sql_values.h"
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

using PyNames = py::typing::Tuple<py::str, py::ellipsis>;
using PyResult = py::typing::Tuple<QueryStatus, PyNames, PyRows, py::bool_, py::str, py::float_,
                                   py::int_, py::bool_>;
using PyReport =
    py::typing::Tuple<py::bool_, QueryStatus, py::str, py::float_, Verdict, py::float_>;
using Statuses = EnumMembers<QueryStatus, 6>;
using PyMatches =
    py::typing::Tuple<py::typing::List<py::typing::Optional<PyReport>>, py::typing::List<py::int_>,
                      py::typing::List<py::typing::Tuple<py::bool_, py::int_>>>;
using PyResults =
    py::typing::Tuple<py::typing::List<py::typing::Optional<PyResult>>, py::typing::List<py::int_>>;
using PyJobs = py::typing::List<py::typing::Tuple<py::str, py::str>>;
using PyPairs = py::typing::List<py::typing::Tuple<py::str, py::str, py::str>>;
using PyFlags = py::typing::List<py::bool_>;

struct EngineSettings {
  int threads;
  std::int64_t max_connections;
  std::int64_t gold_cache_bytes;
  std::int64_t max_heap_bytes;
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

  PyResults run(const PyJobs& jobs, std::int64_t max_rows, std::int64_t max_bytes, double timeout_s,
                std::optional<double> grace_s) {
    begin_after_fork();
    DatabaseList databases;
    std::vector<std::unique_ptr<RunBatch::Job>> listed;
    for (const auto& entry : jobs) {
      const auto job = py::cast<py::tuple>(entry);
      listed.push_back(std::make_unique<RunBatch::Job>());
      listed.back()->database = databases.index_of(job[0]);
      listed.back()->sql = utf8_of(job[1]);
    }
    const QueryLimits limits{.max_rows = max_rows, .max_bytes = max_bytes, .timeout_s = timeout_s};
    const auto queue = queue_;
    const auto batch =
        std::make_shared<RunBatch>(runner_, databases.found(), std::move(listed), limits);
    RunBatch::start(batch, *queue);
    const auto overdue = wait(*queue, batch, limit_of(timeout_s, grace_s));
    py::typing::List<py::typing::Optional<PyResult>> results;
    Statuses statuses;
    for (auto& job : batch->jobs()) {
      if (job->is_done) {
        results.append(result_of(*job, statuses));
        job->rows.clear();
      } else {
        results.append(py::none());
      }
    }
    return py::make_tuple(results, py::cast(overdue));
  }

  PyMatches match(const PyPairs& pairs, const std::optional<PyFlags>& ordered,
                  const ComparisonSettings& comparison, bool early_exit, bool utf8_only,
                  std::int64_t max_rows, std::int64_t max_bytes, double timeout_s,
                  std::optional<double> grace_s) {
    begin_after_fork();
    DatabaseList databases;
    std::vector<MatchPair> listed;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const auto pair = py::cast<py::tuple>(pairs[i]);
      listed.push_back({.database = databases.index_of(pair[0]),
                        .predicted = utf8_of(pair[1]),
                        .gold = utf8_of(pair[2]),
                        .ordered = ordered ? py::cast<bool>((*ordered)[i]) : comparison.ordered});
    }
    MatchSettings settings{};
    settings.comparison = comparison;
    settings.limits = {.max_rows = max_rows, .max_bytes = max_bytes, .timeout_s = timeout_s};
    settings.early_exit = early_exit;
    settings.utf8_only = utf8_only;
    const auto queue = queue_;
    const auto batch = std::make_shared<MatchBatch>(runner_, queue, databases.found(),
                                                    std::move(listed), settings);
    {
      const py::gil_scoped_release release;
      batch->start();
    }
    const auto overdue = wait(*queue, batch, limit_of(timeout_s, grace_s));
    return match_result(*batch, overdue);
  }

  void close() {
    if (queue_ && getpid() == process_) {
      const py::gil_scoped_release release;
      queue_->close(kPatience);
      runner_->connections.clear();
    }
  }

  // Queries run, golds that were reused, the most queries at the same time.
  std::tuple<std::int64_t, std::int64_t, int> counters() {
    begin_after_fork();
    return {runner_->num_queries_run, runner_->num_golds_reused, queue_->most_at_once()};
  }

 private:
  void begin() {
    library_->limit_heap(settings_.max_heap_bytes);
    runner_ = std::make_shared<SqlRunner>(library_, settings_.max_connections,
                                          settings_.gold_cache_bytes);
    queue_ = std::make_shared<JobQueue>(settings_.threads, library_->gate());
    process_ = getpid();
  }

  // A child process has the memory of its parent and none of its threads. What they held is left
  // where it is.
  void begin_after_fork() {
    if (getpid() != process_) {
      static_cast<void>(new std::shared_ptr<SqlRunner>(std::move(runner_)));
      static_cast<void>(new std::shared_ptr<JobQueue>(std::move(queue_)));
      library_ = std::make_shared<SqliteLibrary>(library_->path());
      begin();
    }
  }

  static std::optional<double> limit_of(double timeout_s, std::optional<double> grace_s) {
    return grace_s ? std::optional(timeout_s + *grace_s) : std::nullopt;
  }

  // Waits for a batch, in slices, so that Ctrl-C gets through. With a limit it ends early, and
  // says why, once a query has run for longer.
  template <typename SomeBatch>
  std::vector<std::size_t> wait(JobQueue& queue, const std::shared_ptr<SomeBatch>& batch,
                                std::optional<double> limit_s) {
    auto patience = kPatience;
    while (true) {
      bool has_ended = false;
      std::vector<std::size_t> overdue;
      {
        const py::gil_scoped_release release;
        has_ended = queue.wait(*batch, kSlice);
        if (batch->cancelled()) {  // by close(); what cannot be interrupted is not waited for
          patience -= kSlice;
          has_ended = has_ended || patience.count() <= 0;
        }
        if (!has_ended && limit_s) {
          overdue = queue.overdue(*batch, std::chrono::nanoseconds(std::llround(*limit_s * 1e9)));
        }
      }
      if (has_ended || !overdue.empty()) {
        return overdue;
      }
      if (PyErr_CheckSignals() != 0) {
        const py::error_already_set interrupt;
        {
          const py::gil_scoped_release release;
          queue.cancel(batch, kPatience);
        }
        throw interrupt;
      }
    }
  }

  // (status, columns, rows, truncated, message, elapsed_ms, size_bytes, invalid_utf8)
  static PyResult result_of(RunBatch::Job& job, Statuses& statuses) {
    bool is_invalid = false;
    py::tuple columns(job.rows.columns().size());
    py::tuple rows(0);
    if (job.report.status == QueryStatus::ok) {
      for (std::size_t i = 0; i < columns.size(); ++i) {
        columns[i] = decoded(job.rows.columns()[i]);
      }
      rows = rows_of(job.rows, is_invalid);
    } else {
      columns = py::tuple(0);
    }
    return py::make_tuple(statuses[job.report.status], columns, rows, job.report.truncated,
                          decoded(job.report.message), job.report.elapsed_ms, job.report.size_bytes,
                          is_invalid);
  }

  // A list of (gold_failed, status, message, elapsed_ms, verdict, score), or None where there is no
  // answer; the place of every pair's in it; and [(gold, place)] of those that hang.
  static PyMatches match_result(MatchBatch& batch, const std::vector<std::size_t>& overdue) {
    py::list reports;
    Statuses statuses;
    EnumMembers<Verdict, 3> verdicts;
    for (const auto& report : batch.reports()) {
      if (!report) {
        reports.append(py::none());
        continue;
      }
      reports.append(py::make_tuple(report->gold_failed, statuses[report->report.status],
                                    decoded(report->report.message),
                                    report->gold_failed ? 0.0 : report->report.elapsed_ms,
                                    verdicts[report->outcome.verdict], report->outcome.score));
    }
    py::list hanging;
    for (const std::size_t task : overdue) {
      for (const std::size_t unit : batch.units_of_task(task)) {
        hanging.append(py::make_tuple(batch.is_gold_task(task), unit));
      }
    }
    return py::make_tuple(reports, py::cast(batch.unit_of_pair()), hanging);
  }

  std::shared_ptr<SqliteLibrary> library_;
  EngineSettings settings_;
  std::shared_ptr<SqlRunner> runner_;
  std::shared_ptr<JobQueue> queue_;
  pid_t process_ = 0;
};

constexpr auto kEngineDoc =
    "Runs queries on SQLite databases. Its entry point is finestep_fast.sql.Engine.";
constexpr auto kRunDoc =
    "Run [(path, sql)]: (results, hanging). A result is (status, columns, rows, truncated, "
    "message, "
    "elapsed_ms, size_bytes, invalid_utf8), or None where the work was cancelled. With grace_s it "
    "returns once a query has outlived its deadline by so much: then hanging lists their places.";
constexpr auto kMatchDoc =
    "Compare [(path, predicted, gold)]: (reports, place of each pair's report, hanging). A report "
    "is (gold_failed, status, message, elapsed_ms, verdict, score). ordered: one "
    "flag per pair, else that of comparison. With grace_s it returns once a "
    "query has outlived "
    "its deadline by so much: then hanging lists (is_gold, report), and reports that are missing "
    "are None.";

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
                       std::int64_t max_heap_bytes) {
             return std::make_unique<SqlEngine>(library,
                                                EngineSettings{.threads = threads,
                                                               .max_connections = max_connections,
                                                               .gold_cache_bytes = gold_cache_bytes,
                                                               .max_heap_bytes = max_heap_bytes});
           }),
           py::arg("library"), py::kw_only(), py::arg("threads"), py::arg("max_connections"),
           py::arg("gold_cache_bytes"), py::arg("max_heap_bytes"))
      .def("run", &SqlEngine::run, py::arg("jobs"), py::kw_only(), py::arg("max_rows"),
           py::arg("max_bytes"), py::arg("timeout_s"), py::arg("grace_s") = py::none(), kRunDoc)
      .def("match", &SqlEngine::match, py::arg("pairs"), py::arg("ordered"), py::arg("comparison"),
           py::kw_only(), py::arg("early_exit"), py::arg("utf8_only"), py::arg("max_rows"),
           py::arg("max_bytes"), py::arg("timeout_s"), py::arg("grace_s") = py::none(), kMatchDoc)
      .def("counters", &SqlEngine::counters,
           "Queries run, golds that were reused, the most queries at the same time.")
      .def("close", &SqlEngine::close, "Stop running queries and close every connection.");
}

}  // namespace finestep

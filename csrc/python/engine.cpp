#include "python/engine.h"

#include <pybind11/stl.h>
#include <pybind11/typing.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sql/match_batch.h"
#include "sql/precheck.h"
#include "sql/run_batch.h"
#include "sql/runner.h"
#include "sql/spider_query.h"
#include "sql/sqlite_library.h"
#include "threads/job_queue.h"

namespace py = pybind11;

namespace finestep {
namespace {

constexpr std::chrono::milliseconds kSlice(50);
constexpr std::chrono::milliseconds kPatience(800);  // with what cannot be interrupted

using PyValue = py::typing::Union<py::int_, py::float_, py::str, py::bytes, py::none>;
using PyRows = py::typing::Tuple<py::typing::Tuple<PyValue, py::ellipsis>, py::ellipsis>;
using PyNames = py::typing::Tuple<py::str, py::ellipsis>;
using PyResult = py::typing::Tuple<py::int_, PyNames, PyRows, py::bool_, py::str, py::float_,
                                   py::int_, py::bool_>;
using PyReport = py::typing::Tuple<py::bool_, py::int_, py::str, py::float_, py::int_, py::float_>;
using PyMatches =
    py::typing::Tuple<py::typing::List<py::typing::Optional<PyReport>>, py::typing::List<py::int_>,
                      py::typing::List<py::typing::Tuple<py::bool_, py::int_>>>;
using PyResults =
    py::typing::Tuple<py::typing::List<py::typing::Optional<PyResult>>, py::typing::List<py::int_>>;
using PyJobs = py::typing::List<py::typing::Tuple<py::str, py::str>>;
using PyPairs = py::typing::List<py::typing::Tuple<py::str, py::str, py::str>>;
using PyFlags = py::typing::List<py::bool_>;

py::object checked(PyObject* made) {
  if (made == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(made);
}

// The text in UTF-8; a lone surrogate as its three bytes, which is no UTF-8 and told later.
std::string utf8_of(const py::handle& text) {
  Py_ssize_t size = 0;
  if (const char* const data = PyUnicode_AsUTF8AndSize(text.ptr(), &size)) {
    return {data, static_cast<std::size_t>(size)};
  }
  PyErr_Clear();
  const auto bytes = checked(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass"));
  return py::cast<std::string>(bytes);
}

py::object decoded(std::string_view text, bool& is_invalid) {
  PyObject* const made =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
  if (made != nullptr) {
    return py::reinterpret_steal<py::object>(made);
  }
  if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError) == 0) {
    throw py::error_already_set();
  }
  PyErr_Clear();
  is_invalid = true;
  return checked(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape"));
}

py::object decoded(std::string_view text) {
  bool is_invalid = false;
  return decoded(text, is_invalid);
}

py::object value_of(const Cell& cell, bool& is_invalid) {
  switch (cell.kind) {
    case CellKind::integer:
      return checked(PyLong_FromLongLong(cell.integer));
    case CellKind::real:
      return checked(PyFloat_FromDouble(cell.real));
    case CellKind::text:
      return decoded(cell.bytes, is_invalid);
    case CellKind::blob:
      return checked(
          PyBytes_FromStringAndSize(cell.bytes.data(), static_cast<Py_ssize_t>(cell.bytes.size())));
    default:
      return py::none();
  }
}

py::tuple rows_of(const StoredRows& stored, bool& is_invalid) {
  py::tuple rows(stored.num_rows());
  for (std::size_t r = 0; r < stored.num_rows(); ++r) {
    py::tuple row(stored.num_columns());
    for (std::size_t c = 0; c < stored.num_columns(); ++c) {
      row[c] = value_of(stored.cell(r, c), is_invalid);
    }
    rows[r] = std::move(row);
  }
  return rows;
}

// Databases in the order in which they are first named.
class DatabaseList {
 public:
  std::size_t index_of(const py::handle& path) {
    const auto [known, is_new] = index_by_object_.try_emplace(path.ptr(), paths_.size());
    if (is_new) {
      const auto bytes = checked(PyUnicode_EncodeFSDefault(path.ptr()));
      const auto [same, is_other] =
          index_by_path_.try_emplace(py::cast<std::string>(bytes), paths_.size());
      known->second = same->second;
      if (is_other) {
        paths_.push_back(same->first);
      }
    }
    return known->second;
  }

  // Looks at the files.
  std::vector<Database> found() const {
    const py::gil_scoped_release release;
    std::vector<Database> databases;
    for (const std::string& path : paths_) {
      databases.push_back(found_database(path));
    }
    return databases;
  }

 private:
  std::unordered_map<PyObject*, std::size_t> index_by_object_;
  std::unordered_map<std::string, std::size_t> index_by_path_;
  std::vector<std::string> paths_;
};

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
    for (auto& job : batch->jobs()) {
      if (job->is_done) {
        results.append(result_of(*job));
        job->rows.clear();
      } else {
        results.append(py::none());
      }
    }
    return py::make_tuple(results, py::cast(overdue));
  }

  PyMatches match(const PyPairs& pairs, const std::optional<PyFlags>& ordered,
                  const std::tuple<int, bool, double, std::int64_t>& comparison, bool early_exit,
                  bool utf8_only, std::int64_t max_rows, std::int64_t max_bytes, double timeout_s,
                  std::optional<double> grace_s) {
    begin_after_fork();
    const auto& [semantics, is_ordered, float_tolerance, budget] = comparison;
    DatabaseList databases;
    std::vector<MatchPair> listed;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const auto pair = py::cast<py::tuple>(pairs[i]);
      listed.push_back({.database = databases.index_of(pair[0]),
                        .predicted = utf8_of(pair[1]),
                        .gold = utf8_of(pair[2]),
                        .ordered = ordered ? py::cast<bool>((*ordered)[i]) : is_ordered});
    }
    MatchSettings settings{};
    settings.comparison.semantics = static_cast<Semantics>(semantics);
    settings.comparison.ordered = is_ordered;
    settings.comparison.float_tolerance = float_tolerance;
    settings.comparison.search_budget = budget;
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

  // Queries run, golds that were remembered, the most queries at the same time.
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
  static PyResult result_of(RunBatch::Job& job) {
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
    return py::make_tuple(static_cast<int>(job.report.status), columns, rows, job.report.truncated,
                          decoded(job.report.message), job.report.elapsed_ms, job.report.size_bytes,
                          is_invalid);
  }

  // A list of (gold_failed, status, message, elapsed_ms, verdict, score), or None where there is no
  // answer; the place of every pair's in it; and [(gold, place)] of those that hang.
  static PyMatches match_result(MatchBatch& batch, const std::vector<std::size_t>& overdue) {
    py::list reports;
    for (const auto& report : batch.reports()) {
      if (!report) {
        reports.append(py::none());
        continue;
      }
      reports.append(py::make_tuple(
          report->gold_failed, static_cast<int>(report->report.status),
          decoded(report->report.message), report->gold_failed ? 0.0 : report->report.elapsed_ms,
          static_cast<int>(report->outcome.verdict), report->outcome.score));
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

// The rows of our own queries on one database, in turn; None for one that fails.
py::typing::List<py::typing::Optional<PyRows>> own_rows(const SqliteLibrary& library,
                                                        const py::str& path,
                                                        const py::typing::List<py::str>& queries,
                                                        int max_instructions) {
  const auto file = py::cast<std::string>(checked(PyUnicode_EncodeFSDefault(path.ptr())));
  Connection connection(library.api(), file_identity(file));
  py::typing::List<py::typing::Optional<PyRows>> results;
  for (const auto& query : queries) {
    const std::string sql = utf8_of(query);
    StoredRows rows;
    bool is_whole = false;
    {
      const py::gil_scoped_release release;
      is_whole = run_own_query(connection, sql, max_instructions, rows);
    }
    bool is_invalid = false;
    results.append(is_whole ? py::object(rows_of(rows, is_invalid)) : py::none());
  }
  return results;
}

constexpr auto kEngineDoc =
    "Runs queries on SQLite databases. The door to it is finestep_fast.sql.Engine.";
constexpr auto kRunDoc =
    "Run [(path, sql)]: (results, hanging). A result is (status, columns, rows, truncated, "
    "message, "
    "elapsed_ms, size_bytes, invalid_utf8), or None where the work was called off. With grace_s it "
    "returns once a query has outlived its deadline by so much: then hanging lists their places.";
constexpr auto kMatchDoc =
    "Compare [(path, predicted, gold)]: (reports, place of each pair's report, hanging). A report "
    "is (gold_failed, status, message, elapsed_ms, verdict, score). comparison: (semantics, "
    "ordered of pairs without their own, float_tolerance, budget). With grace_s it returns once a "
    "query has outlived "
    "its deadline by so much: then hanging lists (is_gold, report), and reports that are missing "
    "are None.";

}  // namespace

void bind_sql_runner(py::module_& module) {
  py::class_<SqliteLibrary, std::shared_ptr<SqliteLibrary>>(
      module, "SqliteLibrary",
      "One opened SQLite library. `file` is a library, or a module that uses one.")
      .def(py::init<const std::string&>(), py::arg("file"))
      .def_property_readonly("path", &SqliteLibrary::path)
      .def_property_readonly("version", &SqliteLibrary::version)
      .def_property_readonly("compile_options", &SqliteLibrary::compile_options);
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
           py::arg("library"), py::arg("threads"), py::arg("max_connections"),
           py::arg("gold_cache_bytes"), py::arg("max_heap_bytes"))
      .def("run", &SqlEngine::run, py::arg("jobs"), py::arg("max_rows"), py::arg("max_bytes"),
           py::arg("timeout_s"), py::arg("grace_s") = py::none(), kRunDoc)
      .def("match", &SqlEngine::match, py::arg("pairs"), py::arg("ordered"), py::arg("comparison"),
           py::arg("early_exit"), py::arg("utf8_only"), py::arg("max_rows"), py::arg("max_bytes"),
           py::arg("timeout_s"), py::arg("grace_s") = py::none(), kMatchDoc)
      .def("counters", &SqlEngine::counters,
           "Queries run, golds that were remembered, the most queries at the same time.")
      .def("close", &SqlEngine::close, "Stop running queries and close every connection.");
  module.def("own_rows", &own_rows, py::arg("library"), py::arg("path"), py::arg("queries"),
             py::arg("max_instructions"),
             "Rows of queries that are trusted, None for one that fails. Raises RuntimeError for a "
             "database that cannot be read.");
  module.def("test_suite_query", &test_suite_query, py::arg("sql"), py::arg("keep_distinct"),
             "The query as the test-suite evaluator runs it.");
  module.def("expanded_ctes", &expanded_ctes, py::arg("sql"),
             "How many copies of common table expressions a query expands to.");
  module.def("formats_are_literal", &formats_are_literal, py::arg("sql"),
             "Whether every call of printf has a literal pattern of bounded width.");
}

}  // namespace finestep

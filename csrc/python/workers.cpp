#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
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
#include "workers/counts.h"
#include "workers/dispatch.h"
#include "workers/gold_places.h"
#include "workers/match_work.h"
#include "workers/pool.h"
#include "workers/run_work.h"
#include "workers/worker.h"

namespace py = pybind11;

namespace finestep {
namespace {

class WorkerEngine {
 public:
  WorkerEngine(std::vector<std::string> program, int workers, double grace_s,
               std::int64_t verdict_cache_bytes)
      : program_{std::move(program)},
        num_workers_(static_cast<std::size_t>(workers)),
        grace_s_(grace_s),
        verdict_cache_bytes_(verdict_cache_bytes) {
    begin();
  }
  WorkerEngine(const WorkerEngine&) = delete;
  WorkerEngine& operator=(const WorkerEngine&) = delete;
  WorkerEngine(WorkerEngine&&) = delete;
  WorkerEngine& operator=(WorkerEngine&&) = delete;
  ~WorkerEngine() { close(); }

  PyResults run(const PyJobs& jobs, std::int64_t max_rows, std::int64_t max_bytes,
                double timeout_s) {
    begin_after_fork();
    DatabaseList databases;
    std::vector<RunWork::Job> listed;
    for (auto& [database, sql] : read_jobs(jobs, databases)) {
      listed.push_back({.database = database, .sql = std::move(sql)});
    }
    std::vector<py::object> results(listed.size(), py::none());
    Statuses statuses;
    ReleasedGil* released = nullptr;  // some answers come before the lock is given up
    const auto receive = [&](const RunAnswer& answer) {
      const auto take = [&] {
        results.at(answer.number) = result_of(answer.report, answer.columns, answer.rows,
                                              answer.num_rows, answer.num_columns, statuses);
      };
      if (released != nullptr) {
        released->with_lock(take);
      } else {
        take();
      }
    };
    RunWork work(databases.found(), std::move(listed),
                 {.max_rows = max_rows, .max_bytes = max_bytes, .timeout_s = timeout_s},
                 latest(timeout_s), *counts_, receive);
    finish(work, timeout_s, released);
    PyResults all;
    for (const py::object& result : results) {
      all.append(result);
    }
    return all;
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
    static std::atomic<std::uint64_t> num_calls{0};
    const auto found = databases.found();
    AskedPairs asked(*verdicts_, found, std::move(listed), settings, counts_->verdicts_reused);
    MatchWork work(++num_calls, found, asked.taken(), settings, latest(timeout_s), *places_,
                   num_workers_, *counts_);
    ReleasedGil* released = nullptr;
    finish(work, timeout_s, released);
    return match_result(std::move(asked).with(work.reports(), work.unit_of_pair()));
  }

  Counters counters() {
    begin_after_fork();
    return {counts_->queries_run, counts_->golds_reused, counts_->verdicts_reused,
            pool_->most_at_once()};
  }

  void close() {
    if (pool_ && getpid() == process_) {
      const ReleasedGil released;
      pool_->close();
    }
  }

 private:
  void begin() {
    pool_ = std::make_shared<WorkerPool>(program_, num_workers_);
    places_ = std::make_shared<GoldPlaces>();
    counts_ = std::make_shared<WorkCounts>();
    verdicts_ = std::make_shared<VerdictStore>(verdict_cache_bytes_);
    process_ = getpid();
  }

  // The workers of a parent are not ours; what its threads held is left where it is.
  void begin_after_fork() {
    if (getpid() != process_) {
      static_cast<void>(new std::shared_ptr<WorkerPool>(std::move(pool_)));
      static_cast<void>(new std::shared_ptr<GoldPlaces>(std::move(places_)));
      static_cast<void>(new std::shared_ptr<VerdictStore>(std::move(verdicts_)));
      begin();
    }
  }

  [[nodiscard]] std::chrono::nanoseconds latest(double timeout_s) const {
    constexpr double kLongest = 1e9;  // about 32 years
    return std::chrono::nanoseconds(std::llround((std::min(timeout_s, kLongest) + grace_s_) * 1e9));
  }

  // `released` is set while the lock is given up.
  void finish(Work& work, double timeout_s, ReleasedGil*& released) {
    const auto pool = pool_;
    ReleasedGil here;
    released = &here;
    const auto raise_interrupt = [] {
      if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
      }
    };
    dispatch(*pool, work,
             {.latest = latest(timeout_s), .check = [&] { here.with_lock(raise_interrupt); }});
  }

  WorkerProgram program_;
  std::size_t num_workers_;
  double grace_s_;
  std::int64_t verdict_cache_bytes_;
  std::shared_ptr<WorkerPool> pool_;
  std::shared_ptr<GoldPlaces> places_;
  std::shared_ptr<WorkCounts> counts_;
  std::shared_ptr<VerdictStore> verdicts_;
  pid_t process_ = 0;
};

constexpr auto kEngineDoc =
    "Has queries run by worker processes. Its entry point is finestep_fast.sql.Engine.";

}  // namespace

void bind_workers(py::module_& module) {
  py::register_exception<WorkerStartError>(module, "WorkerStartError", PyExc_RuntimeError);
  py::class_<WorkerEngine>(module, "WorkerEngine", kEngineDoc)
      .def(py::init<std::vector<std::string>, int, double, std::int64_t>(), py::arg("program"),
           py::kw_only(), py::arg("workers"), py::arg("grace_s"), py::arg("verdict_cache_bytes"))
      .def("run", &WorkerEngine::run, py::arg("jobs"), py::kw_only(), py::arg("max_rows"),
           py::arg("max_bytes"), py::arg("timeout_s"), "As SqlEngine.run.")
      .def("match", &WorkerEngine::match, py::arg("pairs"), py::arg("ordered"),
           py::arg("comparison"), py::kw_only(), py::arg("early_exit"), py::arg("utf8_only"),
           py::arg("max_rows"), py::arg("max_bytes"), py::arg("timeout_s"), "As SqlEngine.match.")
      .def("counters", &WorkerEngine::counters, "As SqlEngine.counters.")
      .def("close", &WorkerEngine::close, "End all workers.");
  module.def(
      "serve_queries",
      [](std::string library, std::int64_t max_connections, std::int64_t gold_cache_bytes,
         std::int64_t max_heap_bytes, int parent) {
        const ReleasedGil released;
        serve_queries({.library = std::move(library),
                       .max_connections = max_connections,
                       .gold_cache_bytes = gold_cache_bytes,
                       .max_heap_bytes = max_heap_bytes,
                       .parent = parent});
      },
      py::arg("library"), py::arg("max_connections"), py::arg("gold_cache_bytes"),
      py::arg("max_heap_bytes"), py::arg("parent"),
      "The loop of a worker process; see finestep_fast/sql/worker.py.");
}

}  // namespace finestep

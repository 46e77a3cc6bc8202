#include "python/answers.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace finestep {

PyResult result_of(const QueryReport& report, std::span<const std::string_view> columns,
                   std::string_view rows, std::size_t num_rows, std::size_t num_columns,
                   Statuses& statuses) {
  const bool is_ok = report.status == QueryStatus::ok;
  bool is_invalid = false;
  py::tuple names(is_ok ? columns.size() : 0);
  for (std::size_t i = 0; i < names.size(); ++i) {
    names[i] = decoded(columns[i]);
  }
  const py::tuple values = is_ok ? rows_of(rows, num_rows, num_columns, is_invalid) : py::tuple(0);
  return py::make_tuple(statuses[report.status], names, values, report.truncated,
                        decoded(report.message), report.elapsed_ms, report.size_bytes, is_invalid);
}

PyMatches match_result(const std::vector<std::optional<MatchReport>>& reports) {
  PyMatches listed;
  Statuses statuses;
  EnumMembers<Verdict, 3> verdicts;
  for (const auto& report : reports) {
    if (!report) {
      listed.append(py::none());
      continue;
    }
    listed.append(py::make_tuple(report->gold_failed, statuses[report->report.status],
                                 decoded(report->report.message),
                                 report->gold_failed ? 0.0 : report->report.elapsed_ms,
                                 verdicts[report->outcome.verdict], report->outcome.score));
  }
  return listed;
}

}  // namespace finestep

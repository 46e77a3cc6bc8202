// What comes back from an engine, as Python's objects.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <vector>

#include "compare/verdict.h"
#include "python/enum_members.h"
#include "python/sql_values.h"
#include "sql/matching.h"
#include "sql/query.h"

namespace finestep {

using PyNames = pybind11::typing::Tuple<pybind11::str, pybind11::ellipsis>;
using PyResult =
    pybind11::typing::Tuple<QueryStatus, PyNames, PyRows, pybind11::bool_, pybind11::str,
                            pybind11::float_, pybind11::int_, pybind11::bool_>;
using PyResults = pybind11::typing::List<pybind11::typing::Optional<PyResult>>;
using PyReport = pybind11::typing::Tuple<pybind11::bool_, QueryStatus, pybind11::str,
                                         pybind11::float_, Verdict, pybind11::float_>;
using PyMatches = pybind11::typing::List<pybind11::typing::Optional<PyReport>>;
using Statuses = EnumMembers<QueryStatus, 6>;

// (status, columns, rows, truncated, message, elapsed_ms, size_bytes, invalid_utf8); the rows are
// stored ones. Columns and rows only where the status is ok.
PyResult result_of(const QueryReport& report, std::span<const std::string_view> columns,
                   std::string_view rows, std::size_t num_rows, std::size_t num_columns,
                   Statuses& statuses);

// For each pair (gold_failed, status, message, elapsed_ms, verdict, score), or None where there is
// no answer.
PyMatches match_result(const std::vector<std::optional<MatchReport>>& reports);

// Queries run, golds and verdicts that were remembered from earlier calls, the most workers that
// were busy at the same time.
using Counters = std::tuple<std::int64_t, std::int64_t, std::int64_t, int>;

}  // namespace finestep

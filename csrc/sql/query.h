// One query on one sandboxed connection, from its text to its rows.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "compare/cell.h"
#include "sql/connection.h"

namespace finestep {

// Named as in Python's `Status`.
enum class QueryStatus : std::uint8_t {
  ok,
  error,
  timeout,
  too_large,
  denied,
  database_unreadable
};

// Rows, bytes (about what the rows would take as Python objects) and seconds one query may take.
struct QueryLimits {
  std::int64_t max_rows = 0;
  std::int64_t max_bytes = 0;
  double timeout_s = 0;
};

// How a query ended.
struct QueryReport {
  QueryStatus status = QueryStatus::ok;
  std::string message;          // empty when OK
  double elapsed_ms = 0;        // from its start to its last row
  std::int64_t size_bytes = 0;  // of the rows that were taken
  bool truncated = false;       // a cap on rows or bytes cut it short
  bool out_of_memory = false;   // perhaps by another query's fault
  bool is_volatile = false;     // it depends on time or chance
  bool cancelled = false;       // it was cancelled
  bool is_passing = false;      // the file changes: what it says now it may not say next time
};

// Takes the rows of a query.
class RowSink {
 public:
  RowSink() = default;
  RowSink(const RowSink&) = delete;
  RowSink& operator=(const RowSink&) = delete;
  RowSink(RowSink&&) = delete;
  RowSink& operator=(RowSink&&) = delete;
  virtual ~RowSink() = default;

  // Called before the first row. A query may run a second time: then rows of the first do not
  // count.
  virtual void start(std::span<const std::string> columns) = 0;
  // Takes the next row; false if it needs no more.
  virtual bool add_row(std::span<const Cell> row) = 0;
};

// Runs a query to its end, its deadline, its caps, or until the sink needs no more. What is wrong
// with the query is in the report; nothing is thrown except what the sink throws.
QueryReport run_query(Connection& connection, std::string_view sql, QueryPurpose purpose,
                      const QueryLimits& limits, const std::atomic<bool>& cancelled, RowSink& sink);

// Runs one of our own queries on a connection without a guard, within a number of instructions;
// whether it ran to its end.
bool run_own_query(const Connection& connection, const std::string& sql, int max_instructions,
                   RowSink& sink);

}  // namespace finestep

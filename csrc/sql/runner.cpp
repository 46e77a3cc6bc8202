#include "sql/runner.h"

#include <utility>

namespace finestep {

Database found_database(const std::string& path) {
  try {
    return {.identity = file_identity(path), .problem = {}};
  } catch (const UnreadableDatabase& error) {
    return {.identity = {}, .problem = error.what()};
  }
}

SqlRunner::SqlRunner(std::shared_ptr<const SqliteLibrary> opened, std::int64_t max_connections,
                     std::int64_t gold_cache_bytes)
    : library(std::move(opened)),
      connections(library->api(), max_connections),
      golds(gold_cache_bytes) {}

QueryReport SqlRunner::run(const Database& database, const std::string& sql,
                           const QueryLimits& limits, const std::atomic<bool>& cancelled,
                           RowSink& sink) {
  std::string problem = database.problem;
  std::unique_ptr<Connection> connection;
  if (problem.empty()) {
    try {
      connection = connections.borrow(database.identity);
    } catch (const UnreadableDatabase& error) {
      problem = error.what();
    }
  }
  if (!connection) {
    return {.status = QueryStatus::database_unreadable, .message = std::move(problem)};
  }
  ++num_queries_run;
  QueryReport report = run_query(*connection, sql, limits, cancelled, sink);
  connections.give_back(std::move(connection));
  return report;
}

}  // namespace finestep

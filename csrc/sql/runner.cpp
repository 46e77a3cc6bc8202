#include "sql/runner.h"

#include <utility>

namespace finestep {
namespace {

constexpr int kMostReadings = 4;  // of a file that changes meanwhile

}  // namespace

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
                           RowSink& sink, QueryPurpose purpose) {
  if (!database.problem.empty()) {
    return {.status = QueryStatus::database_unreadable, .message = database.problem};
  }
  ++num_queries_run;
  try {
    FileIdentity identity = database.identity;
    for (int i = 0; i < kMostReadings; ++i) {
      const Access access = access_to(identity);
      QueryReport report = run_with(identity, access, sql, purpose, limits, cancelled, sink);
      FileIdentity now = file_identity(identity.file);
      const bool is_same = now.key == identity.key;
      if (is_same || access == Access::with_locks) {
        report.is_passing = i > 0 || !is_same || now.is_recent;
        return report;
      }
      // Somebody wrote meanwhile: what was read may never have been there together.
      now.path = database.identity.path;
      identity = std::move(now);
    }
    unreadable(database.identity.path, "it changes faster than it can be read");
  } catch (const UnreadableDatabase& error) {
    return {.status = QueryStatus::database_unreadable, .message = error.what()};
  }
}

QueryReport SqlRunner::run_with(const FileIdentity& identity, Access access, const std::string& sql,
                                QueryPurpose purpose, const QueryLimits& limits,
                                const std::atomic<bool>& cancelled, RowSink& sink) {
  auto connection = connections.borrow(identity, access);
  QueryReport report = run_query(*connection, sql, purpose, limits, cancelled, sink);
  connections.give_back(std::move(connection));
  return report;
}

}  // namespace finestep

// What the queries of one engine share, and how one of them is run.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "sql/connection.h"
#include "sql/gold_store.h"
#include "sql/query.h"
#include "sql/sqlite_library.h"

namespace finestep {

// A database as it was when a call began: the file, or why it cannot be read.
struct Database {
  FileIdentity identity;
  std::string problem;
};

Database found_database(const std::string& path);

// Shared by the batches of an engine; outlives the engine where a query does.
struct SqlRunner {
  SqlRunner(std::shared_ptr<const SqliteLibrary> opened, std::int64_t max_connections,
            std::int64_t gold_cache_bytes);

  // Runs one query on a pooled connection; once more, with locks, if the file changed meanwhile.
  // Unless said otherwise, what `match` allows.
  QueryReport run(const Database& database, const std::string& sql, const QueryLimits& limits,
                  const std::atomic<bool>& cancelled, RowSink& sink,
                  QueryPurpose purpose = QueryPurpose::match);

  std::shared_ptr<const SqliteLibrary> library;
  ConnectionPool connections;
  GoldStore golds;
  std::atomic<std::int64_t> num_queries_run{0};
  std::atomic<std::int64_t> num_golds_reused{0};

 private:
  QueryReport run_with(const FileIdentity& identity, Access access, const std::string& sql,
                       QueryPurpose purpose, const QueryLimits& limits,
                       const std::atomic<bool>& cancelled, RowSink& sink);
};

}  // namespace finestep

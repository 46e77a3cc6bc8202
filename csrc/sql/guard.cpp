#include "sql/guard.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "sql/allowed_functions.h"
#include "sql/expansion.h"
#include "sql/tokens.h"

namespace finestep {
namespace {

constexpr int kMaxSqlBytes = 128 * 1024;
constexpr std::int64_t kMaxExpandedCtes = 4096;
constexpr int kInstructionsPerTick = 1000;

// SQLITE_LIMIT_...: length of a value, of a query, compound SELECTs, instructions, ATTACHed
// databases, worker threads.
constexpr std::array<std::pair<int, int>, 6> kLimits{
    {{0, 16 * 1024 * 1024}, {1, kMaxSqlBytes}, {4, 100}, {5, 250'000}, {7, 0}, {11, 0}}};

// SQLITE_DBCONFIG_...: fts3_tokenizer, load_extension, writable_schema, ATTACH that creates, ATTACH
// that writes: all off; defensive, trusted_schema: on. Unknown ones are refused by older versions,
// which do not have the feature either. Without trust in the schema a view could not read FTS or
// R-Tree tables; what SQLite marks as not for views it still refuses.
constexpr std::array<std::pair<int, int>, 7> kSettings{
    {{1004, 0}, {1005, 0}, {1011, 0}, {1020, 0}, {1021, 0}, {1010, 1}, {1017, 1}}};

// By SQLite's number of the action, from 1; empty: reading, which is allowed.
constexpr std::array<std::string_view, 34> kActions{"",
                                                    "CREATE INDEX",
                                                    "CREATE TABLE",
                                                    "CREATE TEMP INDEX",
                                                    "CREATE TEMP TABLE",
                                                    "CREATE TEMP TRIGGER",
                                                    "CREATE TEMP VIEW",
                                                    "CREATE TRIGGER",
                                                    "CREATE VIEW",
                                                    "DELETE",
                                                    "DROP INDEX",
                                                    "DROP TABLE",
                                                    "DROP TEMP INDEX",
                                                    "DROP TEMP TABLE",
                                                    "DROP TEMP TRIGGER",
                                                    "DROP TEMP VIEW",
                                                    "DROP TRIGGER",
                                                    "DROP VIEW",
                                                    "INSERT",
                                                    "PRAGMA",
                                                    "",
                                                    "",
                                                    "TRANSACTION",
                                                    "UPDATE",
                                                    "ATTACH",
                                                    "DETACH",
                                                    "ALTER TABLE",
                                                    "REINDEX",
                                                    "ANALYZE",
                                                    "CREATE VTABLE",
                                                    "DROP VTABLE",
                                                    "",
                                                    "SAVEPOINT",
                                                    ""};
constexpr int kPragma = 19;
constexpr int kRead = 20;
constexpr int kSelect = 21;
constexpr int kFunction = 31;
constexpr int kRecursive = 33;

// What SQLite has prepared on this connection: a description of the engine, not of the database.
constexpr std::string_view kStatementTable = "sqlite_stmt";

// Whether a word stands anywhere in a text, in any case and perhaps inside another word.
bool mentions(std::string_view text, std::string_view lower_word) {
  const auto same = [](char a, char b) { return a == b || a - 'A' + 'a' == b; };
  return !std::ranges::search(text, lower_word, same).empty();
}

// NOLINTNEXTLINE(misc-const-correctness): as SQLite calls it.
int must_stop(void* guard) { return static_cast<const Guard*>(guard)->must_stop() ? 1 : 0; }

}  // namespace

void Guard::install(const SqliteApi& api, SqliteConnection* connection) {
  for (const auto& [limit, value] : kLimits) {
    api.limit(connection, limit, value);
  }
  for (const auto& [setting, value] : kSettings) {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): SQLite's interface.
    api.db_config(connection, setting, value, nullptr);
  }
  api.set_authorizer(connection, &Guard::authorize, this);
  api.progress_handler(connection, kInstructionsPerTick, &finestep::must_stop, this);
}

bool Guard::begin(std::string_view sql, Clock::time_point deadline,
                  const std::atomic<bool>& cancelled) {
  text_ = QueryText(sql);
  deadline_ = deadline;
  cancelled_ = &cancelled;
  refusal_.clear();
  is_running_ = false;
  calls_random_ = false;
  calls_date_ = false;
  // A longer query SQLite itself refuses.
  if (sql.size() <= kMaxSqlBytes && mentions(sql, "with") &&
      expanded_ctes(text_.tokens()) > kMaxExpandedCtes) {
    refusal_ = "the common table expressions read one another too often";
  }
  return refusal_.empty();
}

void Guard::refuse(std::string_view what) {
  refusal_ = std::string(what) + " is not allowed: only a query that reads tables is";
}

bool Guard::is_volatile() { return calls_random_ || (calls_date_ && text_.reads_clock()); }

int Guard::authorize(void* guard, int action, const char* first, const char* second,
                     const char* database, const char* view) {
  auto& self = *static_cast<Guard*>(guard);
  if (action == kRead && first != nullptr && lower(first) == kStatementTable) {
    self.refuse(kStatementTable);
    return kSqliteDeny;
  }
  if (action == kSelect || action == kRead || action == kRecursive) {
    return kSqliteOk;
  }
  // FTS5 asks whether its file has changed, whenever it reads.
  if (action == kPragma && self.is_running_ && first != nullptr && second == nullptr &&
      database != nullptr && std::string_view(first) == "data_version") {
    return kSqliteOk;
  }
  if (action == kFunction && second != nullptr) {
    return self.authorize_function(lower(second), view != nullptr);
  }
  const bool known = 0 < action && std::cmp_less(action, kActions.size());
  const std::string_view name =
      known ? kActions.at(static_cast<std::size_t>(action)) : std::string_view();
  self.refuse(name.empty() ? "action " + std::to_string(action) : std::string(name));
  return kSqliteDeny;
}

int Guard::authorize_function(std::string_view function, bool within_view) {
  if (!is_allowed_function(function)) {
    refusal_ = "the function " + std::string(function) + " is not allowed";
    return kSqliteDeny;
  }
  if ((function == "printf" || function == "format") && !text_.formats_are_literal()) {
    refusal_ = std::string(function) + " needs a literal pattern without '*' and of bounded width";
    return kSqliteDeny;
  }
  const bool is_date = is_date_function(function);
  calls_date_ = calls_date_ || is_date;
  // What a view says is not in the query's text.
  calls_random_ = calls_random_ || is_random_function(function) || (is_date && within_view);
  return kSqliteOk;
}

}  // namespace finestep

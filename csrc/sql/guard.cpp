#include "sql/guard.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <utility>

#include "sql/precheck.h"
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

// Functions that only compute. Left out: load_extension, fts3_tokenizer, edit, readfile,
// writefile, sqlite_log, compile options, and whatever an unknown build adds.
constexpr auto kFunctions = std::to_array<std::string_view>({
    "->",
    "->>",
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "avg",
    "bm25",
    "ceil",
    "ceiling",
    "changes",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "cos",
    "cosh",
    "count",
    "cume_dist",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "degrees",
    "dense_rank",
    "exp",
    "first_value",
    "floor",
    "format",
    "fts5_get_locale",
    "fts5_insttoken",
    "fts5_locale",
    "fts5_source_id",
    "geopoly_area",
    "geopoly_bbox",
    "geopoly_blob",
    "geopoly_ccw",
    "geopoly_contains_point",
    "geopoly_group_bbox",
    "geopoly_json",
    "geopoly_overlap",
    "geopoly_regular",
    "geopoly_svg",
    "geopoly_within",
    "geopoly_xform",
    "glob",
    "group_concat",
    "hex",
    "highlight",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_insert",
    "json_array_length",
    "json_error_position",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_patch",
    "json_pretty",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_set",
    "json_type",
    "json_valid",
    "jsonb",
    "jsonb_array",
    "jsonb_array_insert",
    "jsonb_extract",
    "jsonb_group_array",
    "jsonb_group_object",
    "jsonb_insert",
    "jsonb_object",
    "jsonb_patch",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
    "julianday",
    "lag",
    "last_insert_rowid",
    "last_value",
    "lead",
    "length",
    "like",
    "likelihood",
    "likely",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "match",
    "matchinfo",
    "max",
    "median",
    "min",
    "mod",
    "mode",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "offsets",
    "percent_rank",
    "percentile",
    "percentile_cont",
    "percentile_disc",
    "pi",
    "pow",
    "power",
    "printf",
    "quote",
    "radians",
    "random",
    "randomblob",
    "rank",
    "regexp",
    "replace",
    "round",
    "row_number",
    "rtreedepth",
    "rtreenode",
    "rtrim",
    "sign",
    "sin",
    "sinh",
    "snippet",
    "soundex",
    "sqlite_version",
    "sqrt",
    "stddev",
    "strftime",
    "string_agg",
    "substr",
    "substring",
    "subtype",
    "sum",
    "tan",
    "tanh",
    "time",
    "timediff",
    "total",
    "total_changes",
    "trim",
    "trunc",
    "typeof",
    "unhex",
    "unicode",
    "unistr",
    "unistr_quote",
    "unixepoch",
    "unlikely",
    "upper",
    "variance",
    "zeroblob",
});
constexpr auto kDateFunctions = std::to_array<std::string_view>(
    {"date", "datetime", "julianday", "strftime", "time", "timediff", "unixepoch"});
constexpr auto kRandomFunctions = std::to_array<std::string_view>(
    {"current_date", "current_time", "current_timestamp", "random", "randomblob"});
static_assert(std::ranges::is_sorted(kFunctions));
static_assert(std::ranges::is_sorted(kDateFunctions));
static_assert(std::ranges::is_sorted(kRandomFunctions));

bool contains(std::span<const std::string_view> sorted, std::string_view name) {
  return std::ranges::binary_search(sorted, name);
}

bool is_date_function(std::string_view name) { return contains(kDateFunctions, name); }

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
  sql_ = sql;
  deadline_ = deadline;
  cancelled_ = &cancelled;
  refusal_.clear();
  is_running_ = false;
  calls_random_ = false;
  calls_date_ = false;
  // A longer query SQLite itself refuses.
  if (sql.size() <= kMaxSqlBytes && mentions(sql, "with") &&
      expanded_ctes(sql) > kMaxExpandedCtes) {
    refusal_ = "the common table expressions read one another too often";
  }
  return refusal_.empty();
}

void Guard::refuse(std::string_view what) {
  refusal_ = std::string(what) + " is not allowed: only a query that reads tables is";
}

bool Guard::is_volatile() const {
  return calls_random_ || (calls_date_ && reads_clock(sql_, &is_date_function));
}

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
  if (!contains(kFunctions, function)) {
    refusal_ = "the function " + std::string(function) + " is not allowed";
    return kSqliteDeny;
  }
  if ((function == "printf" || function == "format") && !formats_are_literal(sql_)) {
    refusal_ = std::string(function) + " needs a literal pattern without '*' and of bounded width";
    return kSqliteDeny;
  }
  const bool is_date = is_date_function(function);
  calls_date_ = calls_date_ || is_date;
  // What a view says is not in the query's text.
  calls_random_ = calls_random_ || contains(kRandomFunctions, function) || (is_date && within_view);
  return kSqliteOk;
}

}  // namespace finestep

#include "sql/guard.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "sql/allowed_functions.h"
#include "sql/expansion.h"
#include "sql/growth.h"
#include "sql/readable_pragmas.h"
#include "sql/statement_words.h"
#include "sql/tokens.h"

namespace finestep {
namespace {

constexpr int kMaxSqlBytes = 128 * 1024;
constexpr std::int64_t kMaxExpandedCtes = 4096;
// A query without growth has fewer, by its length.
constexpr std::int64_t kMaxTerms = 131'072;
// A text up to so long cannot make so many: with one query in it, and with several.
constexpr std::size_t kSingleQueryBytes = 1400;
constexpr std::size_t kNestedQueryBytes = 180;
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

// SQLite's numbers of what it asks about.
constexpr int kPragma = 19;
constexpr int kRead = 20;
constexpr int kSelect = 21;
constexpr int kUpdate = 23;
constexpr int kFunction = 31;
constexpr int kRecursive = 33;

// What SQLite has prepared on this connection: a description of the engine, not of the database.
constexpr std::string_view kStatementTable = "sqlite_stmt";

// The one readable pragma that needs no argument.
constexpr std::string_view kTableList = "table_list";

constexpr std::string_view kInMatch = " in match";

// Whether a word stands anywhere in a text, in any case and perhaps inside another word.
bool mentions(std::string_view text, std::string_view lower_word) {
  const auto same = [](char a, char b) { return a == b || a - 'A' + 'a' == b; };
  return !std::ranges::search(text, lower_word, same).empty();
}

// Whether a text is long enough for the expressions of its queries to grow beyond bounds.
bool may_grow(std::string_view sql) {
  if (sql.size() <= kNestedQueryBytes) {
    return false;
  }
  const std::string text = lower(sql);
  const auto first = text.find("select");
  return sql.size() > kSingleQueryBytes || text.find("values") != std::string::npos ||
         (first != std::string::npos && text.find("select", first + 1) != std::string::npos);
}

// NOLINTNEXTLINE(misc-const-correctness): as SQLite calls it.
int must_stop(void* guard) { return static_cast<const Guard*>(guard)->must_stop() ? 1 : 0; }

}  // namespace

void Guard::install(const SqliteApi& api, SqliteConnection* connection) {
  api_ = &api;
  connection_ = connection;
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

bool Guard::begin(std::string_view sql, QueryPurpose purpose, Clock::time_point deadline,
                  const std::atomic<bool>& cancelled) {
  text_ = QueryText(sql);
  purpose_ = purpose;
  deadline_ = deadline;
  cancelled_ = &cancelled;
  refusal_.clear();
  lacks_table_ = false;
  is_running_ = false;
  calls_random_ = false;
  calls_date_ = false;
  if (sql.size() > kMaxSqlBytes) {
    return true;  // SQLite itself refuses it
  }
  if (mentions(sql, "with") && expanded_ctes(text_.tokens()) > kMaxExpandedCtes) {
    refusal_ = "the common table expressions read one another too often";
  } else if (may_grow(sql) && grown_terms(text_.tokens(), kMaxTerms) == kMaxTerms) {
    refusal_ = "the expressions would grow to more than " + std::to_string(kMaxTerms) +
               " terms while SQLite puts the query together";
  }
  return refusal_.empty();
}

bool Guard::make_pragma_tables() {
  if (!lacks_table_ || has_pragma_tables_) {
    return false;
  }
  is_making_tables_ = true;
  for (const std::string_view pragma : kReadablePragmas) {
    const std::string sql = "SELECT 1 FROM " + std::string(kPragmaTable).append(pragma);
    SqliteStatement* statement = nullptr;
    api_->prepare_v2(connection_, sql.c_str(), -1, &statement, nullptr);
    api_->finalize(statement);
  }
  is_making_tables_ = false;
  has_pragma_tables_ = true;
  refusal_.clear();
  return true;
}

void Guard::refuse(std::string_view what, std::string_view where, std::string_view instead) {
  refusal_ =
      std::string(what) + " is not allowed" + std::string(where) + ": only " + std::string(instead);
}

void Guard::refuse_statement() { refuse(statement_words(text_.tokens())); }

bool Guard::may_explain(bool is_query_plan) {
  if (purpose_ == QueryPurpose::run && is_query_plan) {
    return true;
  }
  if (is_query_plan) {
    refuse("EXPLAIN QUERY PLAN", kInMatch);
  } else if (purpose_ == QueryPurpose::run) {
    refuse("EXPLAIN", "", "EXPLAIN QUERY PLAN is");
  } else {
    refuse("EXPLAIN");
  }
  return false;
}

bool Guard::is_volatile() { return calls_random_ || (calls_date_ && text_.reads_clock()); }

int Guard::authorize(void* guard, int action, const char* first, const char* second,
                     const char* database, const char* view) {
  auto& self = *static_cast<Guard*>(guard);
  if (action == kSelect || action == kRecursive || self.is_making_tables_) {
    return kSqliteOk;
  }
  if (action == kRead && first != nullptr) {
    return self.authorize_read(lower(first));
  }
  if (action == kFunction && second != nullptr) {
    return self.authorize_function(lower(second), view != nullptr);
  }
  if (action == kPragma && first != nullptr) {
    // FTS5 asks whether its file has changed, whenever it reads.
    const bool is_fts5 = self.is_running_ && second == nullptr && database != nullptr &&
                         std::string_view(first) == "data_version";
    return is_fts5 ? kSqliteOk : self.authorize_pragma(lower(first), second != nullptr);
  }
  const std::string words = statement_words(self.text_.tokens());
  if (words != "SELECT" && words != "VALUES") {
    self.refuse(words);
  } else if (action == kUpdate) {  // of its own notes about tables
    self.lacks_table_ = true;
    self.refuse_table(made_table(self.text_.tokens()));
  } else {
    self.refuse("action " + std::to_string(action));
  }
  return kSqliteDeny;
}

int Guard::authorize_read(const std::string& table) {
  if (table == kStatementTable) {
    refuse(table);
    return kSqliteDeny;
  }
  if (purpose_ == QueryPurpose::match && is_readable_pragma_table(table)) {
    refuse(table, kInMatch);
    return kSqliteDeny;
  }
  return kSqliteOk;
}

int Guard::authorize_pragma(const std::string& pragma, bool has_argument) {
  const bool is_statement = statement_words(text_.tokens()).starts_with("PRAGMA");
  const std::string what = (is_statement ? "PRAGMA " : std::string(kPragmaTable)) + pragma;
  if (!is_readable_pragma(pragma)) {
    refuse_table(what);
  } else if (purpose_ == QueryPurpose::match) {
    refuse(what, kInMatch);
  } else if (!has_argument && !is_running_ && pragma != kTableList) {
    refusal_ = what + " needs a name, as in " + what + "(name)";
  } else {
    return kSqliteOk;
  }
  return kSqliteDeny;
}

void Guard::refuse_table(const std::string& what) {
  const bool is_pragma = what.starts_with("PRAGMA ") || what.starts_with(kPragmaTable);
  if (!is_pragma || purpose_ == QueryPurpose::match) {
    refuse(what);
    return;
  }
  std::string names;
  for (const std::string_view name : kReadablePragmas) {
    if (!names.empty()) {
      names += name == kReadablePragmas.back() ? " and " : ", ";
    }
    names += name;
  }
  refuse(what, "", "the pragmas " + names + " are");
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

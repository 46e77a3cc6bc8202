// The sandbox of one connection: what a query may do, and until when.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "sql/query_text.h"
#include "sql/sqlite_api.h"

namespace finestep {

using Clock = std::chrono::steady_clock;

// What a query's rows are for: to be looked at, or to be compared with a gold query's. A look at
// the schema must not earn a reward, so that only `run` allows it.
enum class QueryPurpose : std::uint8_t { run, match };

// Authorizer and clock of one connection. SQLite holds its address, so it never moves.
class Guard {
 public:
  Guard() = default;
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  Guard(Guard&&) = delete;
  Guard& operator=(Guard&&) = delete;
  ~Guard() = default;

  // Puts limits, settings, authorizer and progress handler on a connection that was just opened.
  void install(const SqliteApi& api, SqliteConnection* connection);

  // Starts the clock for one query; false if it may not even be prepared (see refusal()). `sql`
  // and `cancelled` must outlive the query.
  bool begin(std::string_view sql, QueryPurpose purpose, Clock::time_point deadline,
             const std::atomic<bool>& cancelled);
  // SQLite makes the table of a pragma when it is first named, for which it asks to write to its
  // notes. If it was refused that, makes all that may be read, once for each connection; whether it
  // did and the query may be prepared again.
  bool make_pragma_tables();
  // Says that the query is prepared: SQLite itself asks for everything from now on.
  void start() {
    is_running_ = true;
    refusal_.clear();  // of what SQLite tried and did without
  }
  void end() {
    cancelled_ = nullptr;
    text_ = QueryText();
  }

  // Why the running query was refused; empty while it was not.
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  // Refuses the query for what its statement does.
  void refuse_statement();
  // Whether it may be an EXPLAIN; refuses it if not.
  bool may_explain(bool is_query_plan);
  [[nodiscard]] bool must_stop() const { return is_cancelled() || Clock::now() > deadline_; }
  [[nodiscard]] bool is_cancelled() const {
    return cancelled_ != nullptr && cancelled_->load(std::memory_order_relaxed);
  }
  // Whether the prepared query calls a function whose value depends on time or chance.
  [[nodiscard]] bool is_volatile();

 private:
  static int authorize(void* guard, int action, const char* first, const char* second,
                       const char* database, const char* view);
  int authorize_read(const std::string& table);
  int authorize_function(std::string_view function, bool within_view);
  int authorize_pragma(const std::string& pragma, bool has_argument);
  void refuse(std::string_view what, std::string_view where = "",
              std::string_view instead = "a query that reads tables is");
  void refuse_table(const std::string& what);

  const SqliteApi* api_ = nullptr;
  SqliteConnection* connection_ = nullptr;
  bool has_pragma_tables_ = false;
  bool is_making_tables_ = false;

  QueryText text_;
  QueryPurpose purpose_ = QueryPurpose::match;
  Clock::time_point deadline_;
  const std::atomic<bool>* cancelled_ = nullptr;
  std::string refusal_;
  bool lacks_table_ = false;  // a table that SQLite would have to make
  bool is_running_ = false;
  bool calls_random_ = false;
  bool calls_date_ = false;
};

}  // namespace finestep

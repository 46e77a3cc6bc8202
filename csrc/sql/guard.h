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
  bool begin(std::string_view sql, Clock::time_point deadline, const std::atomic<bool>& cancelled);
  // Says that the query is prepared: SQLite itself asks for everything from now on.
  void start() { is_running_ = true; }
  void end() {
    cancelled_ = nullptr;
    text_ = QueryText();
  }

  // Why the running query was refused; empty while it was not.
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  void refuse(std::string_view what);
  [[nodiscard]] bool must_stop() const { return is_cancelled() || Clock::now() > deadline_; }
  [[nodiscard]] bool is_cancelled() const {
    return cancelled_ != nullptr && cancelled_->load(std::memory_order_relaxed);
  }
  // Whether the prepared query calls a function whose value depends on time or chance.
  [[nodiscard]] bool is_volatile();

 private:
  static int authorize(void* guard, int action, const char* first, const char* second,
                       const char* database, const char* view);
  int authorize_function(std::string_view function, bool within_view);

  QueryText text_;
  Clock::time_point deadline_;
  const std::atomic<bool>* cancelled_ = nullptr;
  std::string refusal_;
  bool is_running_ = false;
  bool calls_random_ = false;
  bool calls_date_ = false;
};

}  // namespace finestep

#include "sql/query.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "compare/utf8.h"
#include "sql/tokens.h"

namespace finestep {
namespace {

constexpr auto kOutOfMemory = "out of memory";
constexpr int kExplainsQueryPlan = 2;  // of stmt_isexplain
constexpr auto kCancelled = "stopped because the work was cancelled";
// About the memory that Python takes for a value and for a row.
constexpr std::int64_t kRowBytes = 40;
constexpr std::int64_t kCellBytes = 8;
constexpr std::int64_t kNumberBytes = 28;
constexpr std::int64_t kTextBytes = 49;
// SQLite refuses longer text, whatever follows.
constexpr std::size_t kMostBytes = 1'000'000'000;

class Statement {
 public:
  explicit Statement(const SqliteApi& api) : api_(&api) {}
  ~Statement() { api_->finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  Statement(Statement&&) = delete;
  Statement& operator=(Statement&&) = delete;

  [[nodiscard]] SqliteStatement* get() const { return statement_; }
  SqliteStatement** place() { return &statement_; }

 private:
  const SqliteApi* api_;
  SqliteStatement* statement_ = nullptr;
};

// The current row of a statement as cells, and about how much memory it would take in Python.
class RowReader {
 public:
  RowReader(const Connection& connection, SqliteStatement* statement)
      : api_(&connection.api()),
        statement_(statement),
        is_utf8_(connection.is_utf8()),
        cells_(static_cast<std::size_t>(connection.api().column_count(statement))) {}

  std::span<const Cell> read() {
    size_bytes_ = kRowBytes;
    int column = 0;
    for (Cell& cell : cells_) {
      read_cell(column++, cell);
    }
    return cells_;
  }

  [[nodiscard]] std::int64_t size_bytes() const { return size_bytes_; }

 private:
  void read_cell(int column, Cell& cell) {
    SqliteValue* const value = api_->column_value(statement_, column);
    size_bytes_ += kCellBytes;
    cell = Cell{};
    switch (api_->value_type(value)) {
      case kSqliteInteger:
        cell.kind = CellKind::integer;
        cell.integer = api_->value_int64(value);
        size_bytes_ += kNumberBytes;
        break;
      case kSqliteReal:
        cell.kind = CellKind::real;
        cell.real = api_->value_double(value);
        size_bytes_ += kNumberBytes;
        break;
      case kSqliteText:
        cell.kind = CellKind::text;
        cell.bytes = bytes(value, column, !is_utf8_);
        size_bytes_ += kTextBytes + std::ssize(cell.bytes);
        break;
      case kSqliteBlob:
        cell.kind = CellKind::blob;
        cell.bytes = bytes(value, column, false);
        size_bytes_ += kTextBytes + std::ssize(cell.bytes);
        break;
      default:
        break;
    }
  }

  // The value's bytes as they are; with `convert` in UTF-8, which only a column's text can have.
  std::string_view bytes(SqliteValue* value, int column, bool convert) const {
    const void* const data =
        convert ? api_->column_text(statement_, column) : api_->value_blob(value);
    const int size = convert ? api_->column_bytes(statement_, column) : api_->value_bytes(value);
    if (data == nullptr && size > 0) {
      throw std::bad_alloc();
    }
    return {static_cast<const char*>(data), data == nullptr ? 0 : static_cast<std::size_t>(size)};
  }

  const SqliteApi* api_;
  SqliteStatement* statement_;
  bool is_utf8_;
  std::vector<Cell> cells_;
  std::int64_t size_bytes_ = 0;
};

bool has_code(int code, int primary) { return code % 256 == primary; }

std::string_view without_space(std::string_view sql) {
  const auto tokens = sql_tokens(sql);
  for (const SqlToken& token : tokens) {
    if (token.kind != TokenKind::space) {
      return sql.substr(static_cast<std::size_t>(token.text.data() - sql.data()));
    }
  }
  return {};
}

// One run of one query.
class Run {
 public:
  Run(Connection& connection, const QueryLimits& limits, QueryReport& report)
      : connection_(&connection),
        api_(&connection.api()),
        limits_(&limits),
        report_(&report),
        statement_(connection.api()) {}

  void go(std::string_view sql, RowSink& sink) {
    if (prepare(sql)) {
      connection_->guard().start();
      take_rows(sink);
    }
    report_->is_volatile = connection_->guard().is_volatile();
  }

 private:
  bool fail(QueryStatus status, std::string message) {
    report_->status = status;
    report_->message = std::move(message);
    return false;
  }

  int compile(std::string_view sql, const char*& tail) {
    // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): its size is the next argument.
    return api_->prepare_v2(connection_->get(), sql.data(),
                            static_cast<int>(std::min(sql.size(), kMostBytes)), statement_.place(),
                            &tail);
  }

  bool prepare(std::string_view sql) {
    const char* tail = nullptr;
    Guard& guard = connection_->guard();
    int code = compile(sql, tail);
    if (code != kSqliteOk && guard.make_pragma_tables()) {
      code = compile(sql, tail);
    }
    if (code != kSqliteOk) {
      return fail_with(code);
    }
    const auto used = static_cast<std::size_t>(tail - sql.data());
    if (!without_space(sql.substr(used)).empty()) {
      return fail(QueryStatus::error, "you can only execute one statement at a time");
    }
    SqliteStatement* const statement = statement_.get();
    if (statement == nullptr) {
      return fail(QueryStatus::error, "the query holds no statement");
    }
    const int explains = api_->stmt_isexplain(statement);
    if (explains != 0 && !guard.may_explain(explains == kExplainsQueryPlan)) {
      return fail_with(kSqliteDeny);
    }
    // Such as REINDEX where there is no index: the authorizer is not asked, and it has no result.
    if (api_->stmt_readonly(statement) == 0 || api_->column_count(statement) == 0) {
      guard.refuse_statement();
      return fail_with(kSqliteDeny);
    }
    if (const int unbound = api_->bind_parameter_count(statement); unbound > 0) {
      return fail(QueryStatus::error,
                  "the query has " + std::to_string(unbound) + " parameters without bindings");
    }
    // `prepare` itself cannot be interrupted by every version.
    return !guard.must_stop() || fail_with(kSqliteInterrupt);
  }

  void take_rows(RowSink& sink) {
    SqliteStatement* const statement = statement_.get();
    std::vector<std::string> columns;
    for (int i = 0; i < api_->column_count(statement); ++i) {
      const char* const name = api_->column_name(statement, i);
      columns.emplace_back(name != nullptr ? name : "");
    }
    sink.start(columns);
    RowReader reader(*connection_, statement);
    std::int64_t num_rows = 0;
    int code = api_->step(statement);
    for (; code == kSqliteRow; code = api_->step(statement)) {
      const auto row = reader.read();
      if (num_rows >= limits_->max_rows ||
          report_->size_bytes + reader.size_bytes() > limits_->max_bytes) {
        report_->truncated = true;
        return;
      }
      ++num_rows;
      report_->size_bytes += reader.size_bytes();
      if (!sink.add_row(row)) {
        return;
      }
    }
    if (code != kSqliteDone) {
      fail_with(code);
    }
  }

  bool fail_with(int code) {
    const Guard& guard = connection_->guard();
    const int extended = api_->extended_errcode(connection_->get());
    if (!guard.refusal().empty()) {
      return fail(QueryStatus::denied, guard.refusal());
    }
    if (has_code(code, kSqliteInterrupt)) {
      report_->cancelled = guard.is_cancelled();
      return fail(QueryStatus::timeout,
                  report_->cancelled ? kCancelled : "stopped at the deadline");
    }
    if (has_code(code, kSqliteNoMemory) || extended == kSqliteIoErrorNoMemory) {
      report_->out_of_memory = true;
      return fail(QueryStatus::too_large, kOutOfMemory);
    }
    const std::string why = api_->errmsg(connection_->get());
    if (has_code(code, kSqliteTooBig)) {
      return fail(QueryStatus::too_large, why);
    }
    // A query cannot write: that a database may not be written to is said of changes to be undone.
    if (has_code(code, kSqliteReadOnly)) {
      return fail(QueryStatus::database_unreadable,
                  "database " + quoted_path(connection_->identity().path) + ": " + kUnfinished);
    }
    if (has_code(code, kSqliteBusy) || has_code(code, kSqliteCannotOpen) ||
        has_code(code, kSqliteCorrupt) || has_code(code, kSqliteIoError) ||
        has_code(code, kSqliteNotADatabase)) {
      return fail(QueryStatus::database_unreadable,
                  "database " + quoted_path(connection_->identity().path) + ": " + why);
    }
    return fail(QueryStatus::error, why);
  }

  Connection* connection_;
  const SqliteApi* api_;
  const QueryLimits* limits_;
  QueryReport* report_;
  Statement statement_;
};

}  // namespace

QueryReport run_query(Connection& connection, std::string_view sql, QueryPurpose purpose,
                      const QueryLimits& limits, const std::atomic<bool>& cancelled,
                      RowSink& sink) {
  QueryReport report;
  Guard& guard = connection.guard();
  const auto started = Clock::now();
  const auto timeout = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::min(limits.timeout_s, 1e9)));
  if (sql.find('\0') != std::string_view::npos) {
    report.status = QueryStatus::error;
    report.message = "the query contains a null character";
  } else if (!valid_utf8(sql)) {
    report.status = QueryStatus::error;
    report.message = "the query is no valid Unicode: surrogates not allowed";
  } else if (!guard.begin(sql, purpose, started + timeout, cancelled)) {
    report.status = QueryStatus::denied;
    report.message = guard.refusal();
  } else {
    try {
      Run(connection, limits, report).go(sql, sink);
    } catch (const std::bad_alloc&) {
      report.status = QueryStatus::too_large;
      report.message = kOutOfMemory;
      report.out_of_memory = true;
    }
  }
  guard.end();
  const std::chrono::duration<double, std::milli> elapsed = Clock::now() - started;
  report.elapsed_ms = elapsed.count();
  return report;
}

bool run_own_query(const Connection& connection, const std::string& sql, int max_instructions,
                   RowSink& sink) {
  const SqliteApi& api = connection.api();
  const auto stop = [](void* /*unused*/) { return 1; };
  api.progress_handler(connection.get(), max_instructions, stop, nullptr);
  Statement statement(api);
  if (api.prepare_v2(connection.get(), sql.c_str(), -1, statement.place(), nullptr) != kSqliteOk ||
      statement.get() == nullptr) {
    return false;
  }
  sink.start({});
  RowReader reader(connection, statement.get());
  int code = api.step(statement.get());
  for (; code == kSqliteRow; code = api.step(statement.get())) {
    sink.add_row(reader.read());
  }
  return code == kSqliteDone;
}

}  // namespace finestep

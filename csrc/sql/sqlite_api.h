// What this package uses of SQLite's stable C interface, declared here so that neither a header nor
// a link to the library is needed. Numbers are those of SQLite's documentation.
#pragma once

#include <cstdint>

namespace finestep {

struct SqliteConnection;  // sqlite3
struct SqliteStatement;   // sqlite3_stmt
struct SqliteValue;       // sqlite3_value

// Result codes. An extended code holds one of them in its lowest byte.
inline constexpr int kSqliteOk = 0;
inline constexpr int kSqliteDeny = 1;
inline constexpr int kSqliteBusy = 5;
inline constexpr int kSqliteNoMemory = 7;
inline constexpr int kSqliteReadOnly = 8;
inline constexpr int kSqliteInterrupt = 9;
inline constexpr int kSqliteIoError = 10;
inline constexpr int kSqliteCorrupt = 11;
inline constexpr int kSqliteCannotOpen = 14;
inline constexpr int kSqliteTooBig = 18;
inline constexpr int kSqliteNotADatabase = 26;
inline constexpr int kSqliteRow = 100;
inline constexpr int kSqliteDone = 101;
inline constexpr int kSqliteIoErrorNoMemory = 10 + 12 * 256;

// Kinds of values.
inline constexpr int kSqliteInteger = 1;
inline constexpr int kSqliteReal = 2;
inline constexpr int kSqliteText = 3;
inline constexpr int kSqliteBlob = 4;
inline constexpr int kSqliteNull = 5;

using SqliteAuthorizer = int (*)(void*, int, const char*, const char*, const char*, const char*);

// The functions of one opened library, each under SQLite's own name without `sqlite3_`.
struct SqliteApi {
  const char* (*libversion)();
  const char* (*compileoption_get)(int);
  int (*threadsafe)();
  int (*initialize)();
  std::int64_t (*hard_heap_limit64)(std::int64_t);
  int (*open_v2)(const char*, SqliteConnection**, int, const char*);
  int (*close_v2)(SqliteConnection*);
  int (*busy_timeout)(SqliteConnection*, int);
  int (*extended_errcode)(SqliteConnection*);
  const char* (*errmsg)(SqliteConnection*);
  int (*limit)(SqliteConnection*, int, int);
  int (*db_config)(SqliteConnection*, int, ...);
  int (*set_authorizer)(SqliteConnection*, SqliteAuthorizer, void*);
  void (*progress_handler)(SqliteConnection*, int, int (*)(void*), void*);
  int (*prepare_v2)(SqliteConnection*, const char*, int, SqliteStatement**, const char**);
  int (*finalize)(SqliteStatement*);
  int (*step)(SqliteStatement*);
  int (*stmt_readonly)(SqliteStatement*);
  int (*stmt_isexplain)(SqliteStatement*);
  int (*bind_parameter_count)(SqliteStatement*);
  int (*column_count)(SqliteStatement*);
  const char* (*column_name)(SqliteStatement*, int);
  const unsigned char* (*column_text)(SqliteStatement*, int);
  int (*column_bytes)(SqliteStatement*, int);
  SqliteValue* (*column_value)(SqliteStatement*, int);
  int (*value_type)(SqliteValue*);
  std::int64_t (*value_int64)(SqliteValue*);
  double (*value_double)(SqliteValue*);
  const void* (*value_blob)(SqliteValue*);
  int (*value_bytes)(SqliteValue*);
};

}  // namespace finestep

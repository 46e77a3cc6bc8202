// Read-only connections to database files, kept open between queries.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "sql/guard.h"
#include "sql/sqlite_api.h"

namespace finestep {

// A database file is missing or cannot be opened; the text says which and why.
class UnreadableDatabase : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What makes the files found at a path at two times the same database: the file itself, its size
// and its age.
struct FileIdentity {
  std::string path;  // as it was given
  std::string file;  // the same from the root: the working folder may change
  std::string key;   // different for every file and every state of it
};

// The file at a path. Throws UnreadableDatabase.
FileIdentity file_identity(const std::string& path);

// A path in quotes, for messages.
std::string quoted_path(const std::string& path);

// One connection that cannot write to the file and takes no lock on it.
class Connection {
 public:
  // Throws UnreadableDatabase; also for a log beside the file with changes that a reader without
  // locks would miss. Without add_sandbox() it is for our own queries only.
  Connection(const SqliteApi& api, FileIdentity identity);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  Connection(Connection&&) = delete;
  Connection& operator=(Connection&&) = delete;

  // Adds the sandbox, so that it may run the queries of others.
  void add_sandbox();

  [[nodiscard]] const SqliteApi& api() const { return *api_; }
  [[nodiscard]] SqliteConnection* get() const { return connection_; }
  [[nodiscard]] const FileIdentity& identity() const { return identity_; }
  Guard& guard() { return guard_; }
  [[nodiscard]] bool is_utf8() const { return is_utf8_; }

 private:
  std::string first_text(const char* sql) const;
  void open_virtual_tables() const;

  const SqliteApi* api_;
  SqliteConnection* connection_ = nullptr;
  FileIdentity identity_;
  Guard guard_;
  bool is_utf8_ = true;
};

// Idle connections by database, a bounded number; the longest unused go first. A connection is
// used by one thread at a time, not always the same.
class ConnectionPool {
 public:
  ConnectionPool(const SqliteApi& api, std::int64_t max_idle) : api_(&api), max_idle_(max_idle) {}

  // Throws UnreadableDatabase.
  std::unique_ptr<Connection> borrow(const FileIdentity& identity);
  void give_back(std::unique_ptr<Connection> connection);
  // Closes every idle connection, which frees SQLite's memory for them.
  void clear();

 private:
  using Idle = std::list<std::unique_ptr<Connection>>;

  const SqliteApi* api_;
  std::int64_t max_idle_;
  std::mutex mutex_;
  Idle idle_;  // the longest unused first
  std::unordered_map<std::string, std::vector<Idle::iterator>> idle_by_key_;
};

}  // namespace finestep

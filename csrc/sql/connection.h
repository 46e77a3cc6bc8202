// Read-only connections to database files, kept open between queries.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "sql/file_identity.h"
#include "sql/guard.h"
#include "sql/sqlite_api.h"

namespace finestep {

// One connection that cannot write to the file.
class Connection {
 public:
  // Throws UnreadableDatabase. Without add_sandbox() it is for our own queries only.
  Connection(const SqliteApi& api, FileIdentity identity, Access access);
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
  [[nodiscard]] Access access() const { return access_; }
  Guard& guard() { return guard_; }
  [[nodiscard]] bool is_utf8() const { return is_utf8_; }

 private:
  std::string first_text(const char* sql) const;
  void open_virtual_tables() const;

  const SqliteApi* api_;
  SqliteConnection* connection_ = nullptr;
  FileIdentity identity_;
  Access access_;
  Guard guard_;
  bool is_utf8_ = true;
};

// Idle connections by database, a bounded number; the longest unused go first. A connection is
// used by one thread at a time, not always the same.
class ConnectionPool {
 public:
  ConnectionPool(const SqliteApi& api, std::int64_t max_idle) : api_(&api), max_idle_(max_idle) {}

  // Throws UnreadableDatabase.
  std::unique_ptr<Connection> borrow(const FileIdentity& identity, Access access);
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

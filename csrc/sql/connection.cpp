#include "sql/connection.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace finestep {
namespace {

constexpr int kOpenReadOnly = 0x1;
constexpr int kOpenUri = 0x40;
constexpr int kOpenNoMutex = 0x8000;
constexpr int kOpenPrivateCache = 0x40000;
constexpr int kBusyMs = 1000;  // that a reader with locks waits for a writer

// Virtual tables that every database has, where SQLite was built with them.
constexpr auto kTableFunctions = std::to_array<std::string_view>(
    {"dbstat", "generate_series", "json_each", "json_tree", "jsonb_each", "jsonb_tree"});

char hex_digit(unsigned value) { return std::string_view("0123456789abcdef").at(value & 15U); }

bool is_plain_in_uri(char c) {
  return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '/' ||
         c == '.' || c == '-' || c == '_' || c == '~';
}

std::string read_only_uri(const std::string& path, Access access) {
  std::string uri = "file://";
  for (const char c : path) {
    if (is_plain_in_uri(c)) {
      uri.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      uri.push_back('%');
      uri.push_back(hex_digit(byte >> 4U));
      uri.push_back(hex_digit(byte));
    }
  }
  return uri + (access == Access::without_locks ? "?mode=ro&immutable=1" : "?mode=ro");
}

// Under what an idle connection is found: one without locks reads one state of one file only.
const std::string& pool_key(const FileIdentity& identity, Access access) {
  return access == Access::without_locks ? identity.key : identity.inode;
}

}  // namespace

Connection::Connection(const SqliteApi& api, FileIdentity identity, Access access)
    : api_(&api), identity_(std::move(identity)), access_(access) {
  const std::string& path = identity_.path;
  const int flags = kOpenReadOnly + kOpenUri + kOpenNoMutex + kOpenPrivateCache;
  const std::string uri = read_only_uri(identity_.file, access);
  if (api.open_v2(uri.c_str(), &connection_, flags, nullptr) != kSqliteOk) {
    const std::string why = connection_ != nullptr ? api.errmsg(connection_) : "out of memory";
    api.close_v2(connection_);
    unreadable(path, why);
  }
  api.busy_timeout(connection_, kBusyMs);
  try {
    is_utf8_ = first_text("PRAGMA encoding") == "UTF-8";
  } catch (...) {
    api.close_v2(connection_);
    throw;
  }
}

Connection::~Connection() { api_->close_v2(connection_); }

std::string Connection::first_text(const char* sql) const {
  SqliteStatement* statement = nullptr;
  std::string text;
  int code = api_->prepare_v2(connection_, sql, -1, &statement, nullptr);
  if (code == kSqliteOk) {
    code = api_->step(statement);
    if (code == kSqliteRow) {
      if (const auto* found = api_->column_text(statement, 0)) {
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): SQLite's text is unsigned.
        text = reinterpret_cast<const char*>(found);
      }
    }
  }
  const std::string why = api_->errmsg(connection_);
  api_->finalize(statement);
  if (code != kSqliteOk && code != kSqliteRow && code != kSqliteDone) {
    unreadable(identity_.path, code % 256 == kSqliteReadOnly ? kUnfinished : why);
  }
  return text;
}

void Connection::add_sandbox() {
  first_text("PRAGMA query_only=1");
  first_text("PRAGMA temp_store=2");
  open_virtual_tables();
  guard_.install(*api_, connection_);
}

// SQLite declares a virtual table when it is first named, for which it writes to the schema in
// memory and prepares whatever the table may need later. The sandbox would refuse all of that as it
// refuses a query, so it is done before the sandbox is there. A table that cannot be opened fails
// the query that names it.
void Connection::open_virtual_tables() const {
  std::vector<std::string> names(kTableFunctions.begin(), kTableFunctions.end());
  SqliteStatement* statement = nullptr;
  api_->prepare_v2(connection_,
                   "SELECT replace(name, '\"', '\"\"') FROM sqlite_master "
                   "WHERE type = 'table' AND rootpage = 0",
                   -1, &statement, nullptr);
  while (statement != nullptr && api_->step(statement) == kSqliteRow) {
    if (const auto* name = api_->column_text(statement, 0)) {
      // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): SQLite's text is unsigned.
      names.emplace_back(reinterpret_cast<const char*>(name));
    }
  }
  api_->finalize(statement);
  for (const std::string& name : names) {
    const std::string sql = "SELECT 1 FROM \"" + name + '"';
    statement = nullptr;
    api_->prepare_v2(connection_, sql.c_str(), -1, &statement, nullptr);
    api_->finalize(statement);
  }
}

std::unique_ptr<Connection> ConnectionPool::borrow(const FileIdentity& identity, Access access) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = idle_by_key_.find(pool_key(identity, access));
    if (found != idle_by_key_.end()) {
      const auto place = found->second.back();
      found->second.pop_back();
      if (found->second.empty()) {
        idle_by_key_.erase(found);
      }
      auto connection = std::move(*place);
      idle_.erase(place);
      return connection;
    }
  }
  auto connection = std::make_unique<Connection>(*api_, identity, access);
  connection->add_sandbox();
  return connection;
}

void ConnectionPool::give_back(std::unique_ptr<Connection> connection) {
  std::unique_ptr<Connection> surplus;  // closed after the lock is released
  const std::scoped_lock lock(mutex_);
  auto& places = idle_by_key_[pool_key(connection->identity(), connection->access())];
  places.push_back(idle_.insert(idle_.end(), std::move(connection)));
  if (std::ssize(idle_) > max_idle_) {
    const auto oldest = idle_.begin();
    const auto found = idle_by_key_.find(pool_key((*oldest)->identity(), (*oldest)->access()));
    std::erase(found->second, oldest);
    if (found->second.empty()) {
      idle_by_key_.erase(found);
    }
    surplus = std::move(*oldest);
    idle_.erase(oldest);
  }
}

void ConnectionPool::clear() {
  Idle surplus;
  const std::scoped_lock lock(mutex_);
  idle_by_key_.clear();
  surplus.swap(idle_);
}

}  // namespace finestep

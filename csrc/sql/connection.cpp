#include "sql/connection.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace finestep {
namespace {

constexpr int kOpenReadOnly = 0x1;
constexpr int kOpenUri = 0x40;
constexpr int kOpenNoMutex = 0x8000;
constexpr int kOpenPrivateCache = 0x40000;

// What the header of a journal begins with while it holds changes to undo.
constexpr std::string_view kJournalMagic = "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7";
// Virtual tables that every database has, where SQLite was built with them.
constexpr auto kTableFunctions = std::to_array<std::string_view>(
    {"dbstat", "generate_series", "json_each", "json_tree", "jsonb_each", "jsonb_tree"});

char hex_digit(unsigned value) { return std::string_view("0123456789abcdef").at(value & 15U); }

bool is_plain_in_uri(char c) {
  return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '/' ||
         c == '.' || c == '-' || c == '_' || c == '~';
}

std::string read_only_uri(const std::string& path) {
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
  return uri + "?mode=ro&immutable=1";
}

[[noreturn]] void unreadable(const std::string& path, const std::string& why) {
  throw UnreadableDatabase("database " + quoted_path(path) + ": " + why);
}

bool has_content(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return !error && size > 0;
}

// Whether a journal lacks what SQLite would play back; `journal_mode=PERSIST` leaves such journals.
bool is_finished(const std::string& journal) {
  std::string head(kJournalMagic.size(), '\0');
  std::ifstream file(journal, std::ios::binary);
  const bool is_open = file.is_open();
  file.read(head.data(), std::ssize(head));
  return is_open && head != kJournalMagic;
}

void refuse_unfinished_changes(const FileIdentity& identity) {
  const std::string& path = identity.path;
  const std::string wal = identity.file + "-wal";
  const std::string journal = identity.file + "-journal";
  const bool has_wal = has_content(wal);
  if (has_wal || (has_content(journal) && !is_finished(journal))) {
    unreadable(path, quoted_path(has_wal ? wal : journal) +
                         " holds unfinished changes; open the database once with a program that "
                         "may write to it");
  }
}

}  // namespace

std::string quoted_path(const std::string& path) {
  const bool has_quote = path.find('\'') != std::string::npos;
  const char quote = has_quote && path.find('"') == std::string::npos ? '"' : '\'';
  std::string text(1, quote);
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      text += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      text += {'\\', 'x', hex_digit(byte >> 4U), hex_digit(byte)};
    } else {
      text.push_back(c);
    }
  }
  return text + quote;
}

FileIdentity file_identity(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    unreadable(path, "embedded null byte");
  }
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) {
    unreadable(path, std::generic_category().message(errno));
  }
#ifdef __APPLE__
  const auto& modified = found.st_mtimespec;
#else
  const auto& modified = found.st_mtim;
#endif
  std::string file = std::filesystem::absolute(path).string();
  std::string key = file;
  key.push_back('\0');
  for (const auto number :
       {static_cast<std::uint64_t>(found.st_dev), static_cast<std::uint64_t>(found.st_ino),
        static_cast<std::uint64_t>(found.st_size), static_cast<std::uint64_t>(modified.tv_sec),
        static_cast<std::uint64_t>(modified.tv_nsec)}) {
    key += std::to_string(number) + ' ';
  }
  return {.path = path, .file = std::move(file), .key = std::move(key)};
}

Connection::Connection(const SqliteApi& api, FileIdentity identity)
    : api_(&api), identity_(std::move(identity)) {
  const std::string& path = identity_.path;
  refuse_unfinished_changes(identity_);
  const int flags = kOpenReadOnly + kOpenUri + kOpenNoMutex + kOpenPrivateCache;
  const std::string uri = read_only_uri(identity_.file);
  if (api.open_v2(uri.c_str(), &connection_, flags, nullptr) != kSqliteOk) {
    const std::string why = connection_ != nullptr ? api.errmsg(connection_) : "out of memory";
    api.close_v2(connection_);
    unreadable(path, why);
  }
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
    unreadable(identity_.path, why);
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

std::unique_ptr<Connection> ConnectionPool::borrow(const FileIdentity& identity) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = idle_by_key_.find(identity.key);
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
  auto connection = std::make_unique<Connection>(*api_, identity);
  connection->add_sandbox();
  return connection;
}

void ConnectionPool::give_back(std::unique_ptr<Connection> connection) {
  std::unique_ptr<Connection> surplus;  // closed after the lock is released
  const std::scoped_lock lock(mutex_);
  const std::string& key = connection->identity().key;
  auto& places = idle_by_key_[key];
  places.push_back(idle_.insert(idle_.end(), std::move(connection)));
  if (std::ssize(idle_) > max_idle_) {
    const auto oldest = idle_.begin();
    const auto found = idle_by_key_.find((*oldest)->identity().key);
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

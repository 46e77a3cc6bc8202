// Which file is at a path, and in which state.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace finestep {

// A database file is missing or cannot be opened; the text says which and why.
class UnreadableDatabase : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What makes the files found at a path at two times the same database in the same state: the file
// itself, its size and its times, and those of its write-ahead log.
struct FileIdentity {
  std::string path;          // as it was given
  std::string file;          // the same from the root: the working folder may change
  std::string inode;         // different for every file, whatever its state
  std::string key;           // different for every file and every state of it
  bool is_recent = false;    // it, or its log, changed within the last second
  bool has_log = false;      // a write-ahead log with content lies beside it
  bool has_journal = false;  // a rollback journal with content does
};

// How a file is read. Without locks no writer is noticed: whoever does so looks at the file again
// afterwards. With them, a query sees one state of the database.
enum class Access : std::uint8_t { without_locks, with_locks };

// With locks if there are signs of a writer. A file in the mode of a write-ahead log is read
// without them while it has none: SQLite would make one. Throws UnreadableDatabase for a log that
// only a program that may write can read.
Access access_to(const FileIdentity& identity);

// The file at a path. Throws UnreadableDatabase.
FileIdentity file_identity(const std::string& path);

// Said of a database beside which lie changes that only a program that may write can finish.
inline constexpr auto kUnfinished =
    "a log beside it holds unfinished changes; open the database once with a program that may "
    "write to it";

// A path in quotes, for messages.
std::string quoted_path(const std::string& path);

[[noreturn]] void unreadable(const std::string& path, const std::string& why);

}  // namespace finestep

// Finding and opening a SQLite library at run time.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "sql/sqlite_api.h"
#include "threads/memory_gate.h"

namespace finestep {

// No library could be used; the message lists what was tried.
class NoSqliteLibrary : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How a process uses its copy of SQLite.
enum class LibraryUse : std::uint8_t {
  shared,     // beside whatever else uses it, on many threads
  one_thread  // alone and on one thread: without locks, and each query's memory has a bound
};

// One opened SQLite library. It stays open until the process ends: connections and threads may
// outlive the object that opened it.
class SqliteLibrary {
 public:
  // `file` is a library, or a module that uses one (such as Python's own _sqlite3): then it is the
  // copy that the module uses. Throws NoSqliteLibrary.
  explicit SqliteLibrary(const std::string& file, LibraryUse use = LibraryUse::shared);

  [[nodiscard]] const SqliteApi& api() const { return api_; }
  // The file that the functions come from.
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string version() const;
  [[nodiscard]] std::vector<std::string> compile_options() const;

  // Decides which queries may run while the memory of this copy is short.
  MemoryGate& gate() { return gate_; }
  // Lowers the limit on the memory that this copy of SQLite may take in the whole process.
  void limit_heap(std::int64_t max_bytes) const;
  // Bounds what the next query may take; for a library that is used on one thread. If the library
  // does not let its allocator be chosen, that is the limit of the whole process.
  void limit_query(std::int64_t max_bytes) const;

 private:
  SqliteApi api_{};
  std::string path_;
  bool counts_memory_ = false;
  MemoryGate gate_;
};

}  // namespace finestep

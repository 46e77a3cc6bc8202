// An allocator for SQLite that counts, so that every query has a bound of its own.
#pragma once

#include <cstdint>

namespace finestep {

using SqliteConfig = int (*)(int, ...);

// Configures a copy of SQLite that is not initialised yet: for one thread, without statistics, and
// with the counting allocator. False if it does not take that. One copy in a process has it.
bool configure_for_one_thread(SqliteConfig config);

// From now on SQLite may hold so many bytes more than it holds now; beyond, it is out of memory.
void limit_query_memory(std::int64_t max_bytes);

}  // namespace finestep

// The loop of a worker process: one request after the other, until its parent is gone.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace finestep {

struct WorkerSettings {
  std::string library;  // path of the SQLite library
  std::int64_t max_connections = 0;
  std::int64_t gold_cache_bytes = 0;
  std::int64_t max_heap_bytes = 0;  // that SQLite may take for one query
  pid_t parent = 0;
};

// Answers what comes through the worker's socket (see link.h). Returns when the other end closes;
// when the parent ends in any other way, whatever runs here ends with it. For a process that runs
// nothing else.
void serve_queries(const WorkerSettings& settings);

}  // namespace finestep

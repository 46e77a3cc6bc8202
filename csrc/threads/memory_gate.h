// Which queries run while memory is short. SQLite's limit holds for the whole process, so a query
// that ran out of memory runs once more while no other query runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace finestep {

class MemoryGate {
 public:
  // Lets one query in, beside others or alone. Alone, it waits for those that run, and no new one
  // is let in. False if `cancelled` was set while it waited.
  bool enter(bool alone, const std::atomic<bool>& cancelled);
  void leave(bool alone);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t num_running_ = 0;
  std::int64_t num_wanting_alone_ = 0;
};

}  // namespace finestep

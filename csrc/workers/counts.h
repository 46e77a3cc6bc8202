// What the workers of an engine have done so far.
#pragma once

#include <atomic>
#include <cstdint>

namespace finestep {

struct WorkCounts {
  std::atomic<std::int64_t> queries_run{0};
  std::atomic<std::int64_t> golds_reused{0};
  std::atomic<std::int64_t> verdicts_reused{0};
};

}  // namespace finestep

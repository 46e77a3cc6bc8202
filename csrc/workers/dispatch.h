// Has the work of one call done by workers.
#pragma once

#include <chrono>
#include <functional>

#include "workers/pool.h"
#include "workers/work.h"

namespace finestep {

struct DispatchSettings {
  // A query that has run for longer is ended with its worker.
  std::chrono::nanoseconds latest{0};
  // Called now and then while it waits; what it throws ends the call.
  std::function<void()> check;
};

// Returns when the work is done, or the pool is closed. Throws WorkerStartError, and what `check`
// throws; then no worker is left with any of the work.
void dispatch(WorkerPool& pool, Work& work, const DispatchSettings& settings);

}  // namespace finestep

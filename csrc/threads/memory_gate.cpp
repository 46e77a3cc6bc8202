#include "threads/memory_gate.h"

#include <chrono>

namespace finestep {
namespace {

constexpr std::chrono::milliseconds kSlice(20);

}  // namespace

bool MemoryGate::enter(bool alone, const std::atomic<bool>& cancelled) {
  std::unique_lock lock(mutex_);
  if (alone) {
    ++num_wanting_alone_;
  }
  const auto may_enter = [&] { return alone ? num_running_ == 0 : num_wanting_alone_ == 0; };
  while (!may_enter()) {
    changed_.wait_for(lock, kSlice);
    if (cancelled) {
      num_wanting_alone_ -= alone ? 1 : 0;
      changed_.notify_all();
      return false;
    }
  }
  ++num_running_;
  return true;
}

void MemoryGate::leave(bool alone) {
  const std::scoped_lock lock(mutex_);
  --num_running_;
  if (alone) {
    --num_wanting_alone_;
  }
  if (num_wanting_alone_ > 0 || alone) {
    changed_.notify_all();
  }
}

}  // namespace finestep

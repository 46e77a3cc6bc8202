// What a worker is doing, in memory that its parent reads without asking.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace finestep {

// A query that a worker runs. `number` is its unit's, or its gold's.
struct RunningQuery {
  std::uint64_t number = 0;
  bool is_gold = false;
  std::int64_t started = 0;  // in ticks of the steady clock, which all processes share

  bool operator==(const RunningQuery&) const = default;
};

// One page, written by the worker and read by its parent.
class Progress {
 public:
  void begin(std::uint64_t number, bool is_gold, std::int64_t now) {
    number_.store(number, std::memory_order_relaxed);
    is_gold_.store(is_gold, std::memory_order_relaxed);
    started_.store(now, std::memory_order_release);
  }
  void end() { started_.store(0, std::memory_order_release); }

  // The query that runs now; none between two of them.
  [[nodiscard]] std::optional<RunningQuery> running() const {
    const std::int64_t started = started_.load(std::memory_order_acquire);
    const RunningQuery query{.number = number_.load(std::memory_order_relaxed),
                             .is_gold = is_gold_.load(std::memory_order_relaxed),
                             .started = started};
    std::atomic_thread_fence(std::memory_order_acquire);
    const bool is_same = started_.load(std::memory_order_relaxed) == started;
    return started != 0 && is_same ? std::optional(query) : std::nullopt;
  }

 private:
  std::atomic<std::uint64_t> number_{0};
  std::atomic<bool> is_gold_{false};
  std::atomic<std::int64_t> started_{0};
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

// A progress page mapped from a file descriptor.
class SharedProgress {
 public:
  // Throws std::system_error.
  explicit SharedProgress(int descriptor);
  ~SharedProgress();
  SharedProgress(const SharedProgress&) = delete;
  SharedProgress& operator=(const SharedProgress&) = delete;
  SharedProgress(SharedProgress&&) = delete;
  SharedProgress& operator=(SharedProgress&&) = delete;

  // The descriptor of a new page. Throws std::system_error.
  static int created();

  Progress* operator->() const { return page_; }
  Progress& operator*() const { return *page_; }

 private:
  Progress* page_;
};

}  // namespace finestep

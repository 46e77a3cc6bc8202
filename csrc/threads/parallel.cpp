#include "threads/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#ifndef _OPENMP
#include <thread>
#include <vector>
#endif

namespace finestep {
namespace {

// The chunks that are left, taken one by one, and the first exception.
class Queue {
 public:
  Queue(std::int64_t num_chunks, const std::function<void(std::int64_t)>& work)
      : num_chunks_(num_chunks), work_(&work) {}

  void drain() noexcept {
    try {
      for (std::int64_t chunk = next_++; chunk < num_chunks_; chunk = next_++) {
        (*work_)(chunk);
      }
    } catch (...) {
      if (!failed_.exchange(true)) {
        error_ = std::current_exception();
      }
      next_ = num_chunks_;
    }
  }

  void rethrow() const {
    if (error_) {
      std::rethrow_exception(error_);
    }
  }

 private:
  std::int64_t num_chunks_;
  const std::function<void(std::int64_t)>* work_;
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace

void for_each_chunk(std::int64_t num_chunks, int num_threads,
                    const std::function<void(std::int64_t)>& work) {
  Queue queue(num_chunks, work);
  const auto team = static_cast<int>(std::min<std::int64_t>(num_threads, num_chunks));
  if (team <= 1) {
    queue.drain();
  } else {
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
    queue.drain();
#else
    std::vector<std::jthread> helpers;
    for (int helper = 1; helper < team; ++helper) {
      helpers.emplace_back([&queue] { queue.drain(); });
    }
    queue.drain();
    helpers.clear();
#endif
  }
  queue.rethrow();
}

}  // namespace finestep

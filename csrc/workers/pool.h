// The worker processes of one engine, lent to the calls that need them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "workers/link.h"

namespace finestep {

// No worker can be started.
class WorkerStartError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class WorkerPool {
 public:
  WorkerPool(WorkerProgram program, std::size_t size) : program_(std::move(program)), size_(size) {}

  // Stands for a call; those that want a worker get one in turn.
  using Call = const void*;

  // A worker for the call, at that place if it is idle; null if it has to wait. With `may_start`
  // one is started where fewer run than there may be. A worker whose query has run for long does
  // not count: short queries never wait for long ones. Throws WorkerStartError.
  std::unique_ptr<WorkerLink> take(Call call, std::size_t place, bool may_start);
  void give_back(std::unique_ptr<WorkerLink> worker);
  // For a worker that is gone, or whose query has to be ended.
  void discard(std::unique_ptr<WorkerLink> worker);
  // Whether another call waits for a worker.
  bool is_wanted_by_another(Call call);
  // Waits until a worker was given back, at most so long.
  void wait(std::chrono::milliseconds patience);
  // The call wants no more workers.
  void leave(Call call);

  // Ends all workers. Calls that use one see that it is closed.
  void close();
  [[nodiscard]] bool is_closed();

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] int most_at_once();

 private:
  using Workers = std::vector<std::unique_ptr<WorkerLink>>;

  std::unique_ptr<WorkerLink> take_idle(std::size_t place);
  std::unique_ptr<WorkerLink> start();
  [[nodiscard]] std::size_t num_slow() const;

  WorkerProgram program_;
  std::size_t size_;
  std::mutex mutex_;
  std::condition_variable came_back_;
  Workers idle_;                   // the one used last is the last
  std::vector<WorkerLink*> busy_;  // lent
  std::deque<Call> turns_;         // calls that wait
  std::size_t num_failed_starts_ = 0;
  std::string complaint_;  // of the worker that ended last
  std::size_t most_at_once_ = 0;
  bool is_closed_ = false;
};

}  // namespace finestep

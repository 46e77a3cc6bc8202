// Worker threads, and batches of tasks that take turns on them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "threads/memory_gate.h"

namespace finestep {

// Tasks that were requested together. Owns all that its tasks need: it may outlive the caller.
class Batch : public std::enable_shared_from_this<Batch> {
 public:
  Batch() = default;
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  Batch(Batch&&) = delete;
  Batch& operator=(Batch&&) = delete;
  virtual ~Batch() = default;

  // Does one task, on any thread; false if it ran out of memory and should be tried again alone.
  virtual bool perform(std::size_t task, bool alone) = 0;
  // Called once, after cancelling: tasks that have not begun never will.
  virtual void abandon() {}

  [[nodiscard]] bool is_done() const { return num_open_ == 0; }
  [[nodiscard]] const std::atomic<bool>& cancelled() const { return cancelled_; }

 protected:
  // Answers that are still missing. A batch is done when there are none.
  void open(std::size_t number) { num_open_ += static_cast<std::int64_t>(number); }
  void close(std::size_t number) { num_open_ -= static_cast<std::int64_t>(number); }

 private:
  friend class JobQueue;
  struct Waiting {
    std::size_t task;
    bool alone;
  };

  std::atomic<std::int64_t> num_open_{0};
  std::atomic<bool> cancelled_{false};
  // Guarded by the queue's mutex:
  std::deque<Waiting> waiting_;
  int num_running_ = 0;
  std::exception_ptr error_;
  bool is_known_ = false;
};

// Threads start when they are first needed. Batches take turns, task by task, so that a short one
// does not wait for a long one. Threads keep the queue alive: one inside an instruction of SQLite
// that cannot be interrupted may outlast close().
class JobQueue : public std::enable_shared_from_this<JobQueue> {
 public:
  JobQueue(int num_threads, MemoryGate& gate) : num_threads_(num_threads), gate_(&gate) {}

  // Adds tasks in their order: behind the waiting tasks of the batch, or before them.
  void add(const std::shared_ptr<Batch>& batch, const std::vector<std::size_t>& tasks, bool first);
  // Wakes the callers that wait for the batch, after answers came from another batch's task.
  void notify();
  // Waits until the batch is done, at most so long; throws what a task threw.
  bool wait(Batch& batch, std::chrono::milliseconds patience);
  // Cancels the batch and waits until no task of it runs, at most so long.
  void cancel(const std::shared_ptr<Batch>& batch, std::chrono::milliseconds patience);
  // Cancels every batch and ends the threads, waiting for them at most so long.
  void close(std::chrono::milliseconds patience);
  // The most tasks that ever ran at the same time.
  int most_at_once();

 private:
  void work();
  void perform(const std::shared_ptr<Batch>& batch, Batch::Waiting task);
  void call_off(Batch& batch);

  int num_threads_;
  MemoryGate* gate_;
  std::mutex mutex_;
  std::condition_variable work_came_;
  std::condition_variable work_ended_;
  std::deque<std::shared_ptr<Batch>> turns_;  // batches with waiting tasks
  std::vector<std::weak_ptr<Batch>> batches_;
  int num_workers_ = 0;
  int num_idle_ = 0;
  int num_running_ = 0;
  int most_at_once_ = 0;
  bool closed_ = false;
};

}  // namespace finestep

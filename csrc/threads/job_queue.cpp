#include "threads/job_queue.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace finestep {

void JobQueue::add(const std::shared_ptr<Batch>& batch, const std::vector<std::size_t>& tasks,
                   bool first) {
  std::size_t num_new_workers = 0;
  {
    const std::scoped_lock lock(mutex_);
    if (closed_) {
      call_off(*batch);
    }
    if (batch->cancelled_ || tasks.empty()) {
      return;
    }
    if (batch->waiting_.empty()) {
      turns_.push_back(batch);
    }
    std::deque<Batch::Waiting> added;
    for (const std::size_t task : tasks) {
      added.push_back({.task = task, .alone = false});
    }
    batch->waiting_.insert(first ? batch->waiting_.begin() : batch->waiting_.end(), added.begin(),
                           added.end());
    if (!std::exchange(batch->is_known_, true)) {
      std::erase_if(batches_, [](const auto& known) { return known.expired(); });
      batches_.push_back(batch);
    }
    if (std::cmp_less(num_idle_, tasks.size())) {
      const auto wanted = tasks.size() - static_cast<std::size_t>(num_idle_);
      num_new_workers =
          std::min(wanted, static_cast<std::size_t>(std::max(0, num_threads_ - num_workers_)));
    }
    num_workers_ += static_cast<int>(num_new_workers);
  }
  for (; num_new_workers > 0; --num_new_workers) {
    std::thread([self = shared_from_this()] { self->work(); }).detach();
  }
  if (tasks.size() == 1) {
    work_came_.notify_one();
  } else {
    work_came_.notify_all();
  }
}

void JobQueue::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++num_idle_;
    work_came_.wait(lock, [this] { return closed_ || !turns_.empty(); });
    --num_idle_;
    if (closed_) {
      break;
    }
    most_at_once_ = std::max(most_at_once_, ++num_running_);
    const auto batch = std::move(turns_.front());
    turns_.pop_front();
    const Batch::Waiting task = batch->waiting_.front();
    batch->waiting_.pop_front();
    if (!batch->waiting_.empty()) {
      turns_.push_back(batch);
    }
    ++batch->num_running_;
    lock.unlock();
    perform(batch, task);
    lock.lock();
    --num_running_;
    --batch->num_running_;
    if (batch->is_done() || batch->error_ || batch->cancelled_) {
      work_ended_.notify_all();
    }
  }
  --num_workers_;
  work_ended_.notify_all();
}

void JobQueue::perform(const std::shared_ptr<Batch>& batch, Batch::Waiting task) {
  if (!gate_->enter(task.alone, batch->cancelled_)) {
    return;
  }
  bool is_finished = true;
  std::exception_ptr error;
  try {
    is_finished = batch->perform(task.task, task.alone);
  } catch (...) {
    error = std::current_exception();
  }
  gate_->leave(task.alone);
  if (is_finished && !error) {
    return;
  }
  const std::scoped_lock lock(mutex_);
  if (error) {
    batch->error_ = error;
  } else if (!batch->cancelled_ && !closed_) {
    if (batch->waiting_.empty()) {
      turns_.push_back(batch);
    }
    batch->waiting_.push_back({.task = task.task, .alone = true});
  }
}

void JobQueue::notify() {
  const std::scoped_lock lock(mutex_);
  work_ended_.notify_all();
}

bool JobQueue::wait(Batch& batch, std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  const auto has_ended = [&] {
    return batch.error_ || batch.is_done() || (batch.cancelled_ && batch.num_running_ == 0);
  };
  const bool ended = work_ended_.wait_for(lock, patience, has_ended);
  if (batch.error_) {
    std::rethrow_exception(batch.error_);
  }
  return ended;
}

void JobQueue::call_off(Batch& batch) {
  batch.cancelled_ = true;
  batch.waiting_.clear();
  std::erase_if(turns_, [&](const auto& turn) { return turn.get() == &batch; });
  work_ended_.notify_all();
}

void JobQueue::cancel(const std::shared_ptr<Batch>& batch, std::chrono::milliseconds patience) {
  {
    std::unique_lock lock(mutex_);
    call_off(*batch);
    work_ended_.wait_for(lock, patience, [&] { return batch->num_running_ == 0; });
  }
  batch->abandon();
}

void JobQueue::close(std::chrono::milliseconds patience) {
  std::vector<std::shared_ptr<Batch>> open;
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    for (const auto& known : batches_) {
      if (auto batch = known.lock()) {
        call_off(*batch);
        open.push_back(std::move(batch));
      }
    }
    work_came_.notify_all();
    work_ended_.wait_for(lock, patience, [this] { return num_workers_ == 0; });
  }
  for (const auto& batch : open) {
    batch->abandon();
  }
}

int JobQueue::most_at_once() {
  const std::scoped_lock lock(mutex_);
  return most_at_once_;
}

}  // namespace finestep

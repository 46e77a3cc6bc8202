#include "workers/pool.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "sql/guard.h"

namespace finestep {
namespace {

constexpr std::chrono::milliseconds kSlow(50);
constexpr std::size_t kMostPerPlace = 8;  // processes, however many of them are slow
constexpr std::size_t kMostFailedStarts = 10;

}  // namespace

std::unique_ptr<WorkerLink> WorkerPool::take(Call call, std::size_t place, bool may_start) {
  const std::scoped_lock lock(mutex_);
  if (is_closed_) {
    return nullptr;
  }
  const auto turn = std::ranges::find(turns_, call);
  const auto num_before = static_cast<std::size_t>(turn - turns_.begin());
  if (turn == turns_.end()) {
    turns_.push_back(call);
  }
  const std::size_t num_counted = busy_.size() - num_slow();
  std::unique_ptr<WorkerLink> worker;
  if (num_counted + num_before < size_) {
    if (num_before < idle_.size()) {
      worker = take_idle(place);
    } else if (may_start && idle_.empty() && busy_.size() < kMostPerPlace * size_) {
      worker = start();
    }
  }
  if (worker) {
    std::erase(turns_, call);
    busy_.push_back(worker.get());
    most_at_once_ = std::max(most_at_once_, busy_.size());
  }
  return worker;
}

std::unique_ptr<WorkerLink> WorkerPool::take_idle(std::size_t place) {
  auto taken =
      std::ranges::find_if(idle_, [&](const auto& worker) { return worker->place() == place; });
  if (taken == idle_.end()) {
    --taken;  // the one used last
  }
  auto worker = std::move(*taken);
  idle_.erase(taken);
  return worker;
}

std::unique_ptr<WorkerLink> WorkerPool::start() {
  if (num_failed_starts_ >= kMostFailedStarts) {
    throw WorkerStartError("no worker process could be started: '" + program_.words.front() +
                           "' ended before it answered" +
                           (complaint_.empty() ? "" : ": " + complaint_));
  }
  // The first place that no worker has; beyond the size, where slow ones are, any.
  std::size_t place = 0;
  const auto has_place = [&](const auto& worker) { return worker->place() == place; };
  while (place < size_ &&
         (std::ranges::any_of(busy_, has_place) || std::ranges::any_of(idle_, has_place))) {
    ++place;
  }
  try {
    return std::make_unique<WorkerLink>(program_, place < size_ ? place : 0);
  } catch (const std::system_error& error) {
    throw WorkerStartError(std::string("no worker process could be started: ") + error.what());
  }
}

std::size_t WorkerPool::num_slow() const {
  const auto long_ago = (Clock::now() - kSlow).time_since_epoch().count();
  return static_cast<std::size_t>(
      std::count_if(busy_.begin(), busy_.end(), [&](const auto* worker) {
        const auto query = worker->running();
        return query && query->started < long_ago;
      }));
}

void WorkerPool::give_back(std::unique_ptr<WorkerLink> worker) {
  std::unique_ptr<WorkerLink> surplus;  // ended after the lock is released
  {
    const std::scoped_lock lock(mutex_);
    num_failed_starts_ = 0;
    std::erase(busy_, worker.get());
    if (is_closed_ || idle_.size() >= size_) {
      surplus = std::move(worker);
    } else {
      idle_.push_back(std::move(worker));
    }
  }
  came_back_.notify_all();
}

void WorkerPool::discard(std::unique_ptr<WorkerLink> worker) {
  {
    const std::scoped_lock lock(mutex_);
    num_failed_starts_ = worker->is_up() ? 0 : num_failed_starts_ + 1;
    complaint_ = worker->complaint();
    std::erase(busy_, worker.get());
  }
  worker.reset();
  came_back_.notify_all();
}

bool WorkerPool::is_wanted_by_another(Call call) {
  const std::scoped_lock lock(mutex_);
  return !turns_.empty() && (turns_.size() > 1 || turns_.front() != call);
}

void WorkerPool::wait(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!is_closed_) {
    came_back_.wait_for(lock, patience);
  }
}

void WorkerPool::leave(Call call) {
  {
    const std::scoped_lock lock(mutex_);
    std::erase(turns_, call);
  }
  came_back_.notify_all();
}

void WorkerPool::close() {
  Workers ended;
  {
    const std::scoped_lock lock(mutex_);
    is_closed_ = true;
    ended.swap(idle_);
    for (WorkerLink* const worker : busy_) {
      worker->end();
    }
  }
  came_back_.notify_all();
}

bool WorkerPool::is_closed() {
  const std::scoped_lock lock(mutex_);
  return is_closed_;
}

int WorkerPool::most_at_once() {
  const std::scoped_lock lock(mutex_);
  return static_cast<int>(most_at_once_);
}

}  // namespace finestep

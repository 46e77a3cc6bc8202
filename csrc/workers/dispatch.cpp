#include "workers/dispatch.h"

#include <poll.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "sql/guard.h"

namespace finestep {
namespace {

constexpr std::chrono::milliseconds kSlice(50);  // between two looks at signals
constexpr std::chrono::milliseconds kBrief(2);   // between two looks for a free worker
constexpr std::chrono::duration<double> kShareTime(0.004);
constexpr std::chrono::milliseconds kWorthAStart(10);  // a call that lasts gets further workers
constexpr std::chrono::seconds kDeath(1);              // for a process that was killed to be gone
constexpr std::size_t kFirstShare = 8;
constexpr std::size_t kLargestShare = 512;
// Workers that ended while they ran no query, with no answer in between.
constexpr int kMostLosses = 20;

class Dispatcher {
 public:
  Dispatcher(WorkerPool& pool, Work& work, const DispatchSettings& settings)
      : pool_(&pool), work_(&work), settings_(&settings), looked_(Clock::now()) {}

  ~Dispatcher() {
    for (Lent& lent : lent_) {
      pool_->discard(std::move(lent.worker));  // only if the call ends early
    }
    pool_->leave(this);
  }
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;
  Dispatcher(Dispatcher&&) = delete;
  Dispatcher& operator=(Dispatcher&&) = delete;

  void go() {
    const auto began = Clock::now();
    while (!work_->is_done() && !pool_->is_closed()) {
      const bool may_start = lent_.empty() || Clock::now() - began > kWorthAStart;
      const bool has_rest = hand_out(may_start);
      if (lent_.empty()) {
        pool_->wait(kBrief);
      } else {
        wait_for_answers(has_rest ? kBrief : kSlice);
        end_late_ones();
      }
      look_at_signals();
    }
  }

 private:
  // A worker that has a request of this call.
  struct Lent {
    std::unique_ptr<WorkerLink> worker;
    Lease lease;
    std::size_t num_queries;
    Clock::time_point asked;
  };

  // Gives free workers what there is to do. Returns whether another worker could be used.
  bool hand_out(bool may_start) {
    while (true) {
      if (lent_.size() >= pool_->size() && !all_are_slow()) {
        return false;
      }
      const auto place = work_->wanted_place();
      if (place == kNoPlace) {
        return false;
      }
      auto worker = pool_->take(this, place, may_start);
      if (!worker) {
        return true;
      }
      may_start = false;
      if (!give(std::move(worker))) {
        return false;
      }
    }
  }

  // Gives a worker its next request; returns it to the pool if there is none.
  bool give(std::unique_ptr<WorkerLink> worker) {
    const std::size_t num_open = work_->num_open();
    const std::size_t fair = (num_open + 2 * pool_->size() - 1) / (2 * pool_->size());
    const std::size_t num_queries = std::clamp<std::size_t>(fair, 1, share_size_);
    const Lease lease = ++num_leases_;
    const auto request = work_->share(lease, worker->place(), num_queries);
    if (request.empty()) {
      pool_->leave(this);
      pool_->give_back(std::move(worker));
      return false;
    }
    const bool is_sent = worker->send(request);
    lent_.push_back({.worker = std::move(worker),
                     .lease = lease,
                     .num_queries = num_queries,
                     .asked = Clock::now()});
    if (!is_sent) {
      lose(lent_.size() - 1, std::nullopt);
    }
    return true;
  }

  [[nodiscard]] bool all_are_slow() const {
    const auto long_ago = (Clock::now() - kSlice).time_since_epoch().count();
    return std::ranges::all_of(lent_, [&](const Lent& lent) {
      const auto query = lent.worker->running();
      return query && query->started < long_ago;
    });
  }

  void wait_for_answers(std::chrono::milliseconds patience) {
    std::vector<pollfd> sockets;
    sockets.reserve(lent_.size());
    for (const Lent& lent : lent_) {
      sockets.push_back({.fd = lent.worker->socket(), .events = POLLIN, .revents = 0});
    }
    poll(sockets.data(), static_cast<nfds_t>(sockets.size()), static_cast<int>(patience.count()));
    for (std::size_t i = sockets.size(); i-- > 0;) {  // from the end: lent ones leave
      if (sockets[i].revents != 0) {
        take_answers(i);
      }
    }
  }

  void take_answers(std::size_t i) {
    Lent& lent = lent_[i];
    const bool is_there = lent.worker->receive();
    bool is_finished = false;
    while (const auto message = lent.worker->next()) {
      num_losses_ = 0;
      is_finished = work_->take(lent.lease, *message) || is_finished;
    }
    if (is_finished) {
      measure(lent);
      auto worker = std::move(lent.worker);
      remove(i);
      if (is_there && !pool_->is_wanted_by_another(this) && work_->wanted_place() != kNoPlace) {
        give(std::move(worker));
      } else if (is_there) {
        pool_->give_back(std::move(worker));
      } else {
        pool_->discard(std::move(worker));
      }
    } else if (!is_there) {
      lose(i, std::nullopt);
    }
  }

  // So many queries as take about kShareTime go into the next share.
  void measure(const Lent& lent) {
    const std::chrono::duration<double> took = Clock::now() - lent.asked;
    const double rate = static_cast<double>(lent.num_queries) / std::max(took.count(), 1e-6);
    const double wanted = std::clamp(rate * kShareTime.count(), 1.0, double{kLargestShare});
    share_size_ = (share_size_ + static_cast<std::size_t>(wanted) + 1) / 2;
  }

  void end_late_ones() {
    const std::int64_t now = Clock::now().time_since_epoch().count();
    for (std::size_t i = lent_.size(); i-- > 0;) {
      const auto query = lent_[i].worker->running();
      if (query && now - query->started > settings_->latest.count()) {
        lose(i, query);
      }
    }
  }

  // Ends a worker, if it has not ended: what it had answered counts. With a late query, that one
  // is at fault if it is still the one that ran at the end.
  void lose(std::size_t i, const std::optional<RunningQuery>& late) {
    auto worker = std::move(lent_[i].worker);
    const Lease lease = lent_[i].lease;
    remove(i);
    worker->end();
    drain(*worker, lease);
    auto query = worker->running();
    pool_->discard(std::move(worker));
    if (late && query != late) {
      query.reset();
    }
    work_->lose(lease, query ? &*query : nullptr, late ? Loss::late : Loss::crashed);
    if (!query && ++num_losses_ > kMostLosses) {
      throw WorkerStartError("worker processes end, one after the other, while they run no query");
    }
  }

  // Takes what an ended worker had sent, to its last byte.
  void drain(WorkerLink& worker, Lease lease) {
    const auto began = Clock::now();
    while (worker.receive() && Clock::now() - began < kDeath) {
      pollfd ended{.fd = worker.socket(), .events = POLLIN, .revents = 0};
      poll(&ended, 1, static_cast<int>(kSlice.count()));
    }
    while (const auto message = worker.next()) {
      work_->take(lease, *message);
    }
  }

  void remove(std::size_t i) { lent_.erase(lent_.begin() + static_cast<std::ptrdiff_t>(i)); }

  void look_at_signals() {
    const auto now = Clock::now();
    if (now - looked_ >= kSlice) {
      looked_ = now;
      settings_->check();
    }
  }

  WorkerPool* pool_;
  Work* work_;
  const DispatchSettings* settings_;
  std::vector<Lent> lent_;
  std::size_t share_size_ = kFirstShare;
  Lease num_leases_ = 0;
  Clock::time_point looked_;
  int num_losses_ = 0;
};

}  // namespace

void dispatch(WorkerPool& pool, Work& work, const DispatchSettings& settings) {
  Dispatcher(pool, work, settings).go();
}

}  // namespace finestep

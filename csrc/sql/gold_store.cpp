#include "sql/gold_store.h"

#include <utility>

namespace finestep {
namespace {

constexpr std::int64_t kEntryBytes = 1024;

}  // namespace

SharedGold GoldStore::find(const GoldKey& key, const Waiter& waiter, bool& must_run) {
  const std::scoped_lock lock(mutex_);
  must_run = false;
  if (const auto found = golds_.find(key.rows)) {
    return *found;
  }
  const auto [running, is_new] = waiters_by_key_.try_emplace(key.run);
  must_run = is_new;
  if (!is_new) {
    running->second.push_back(waiter);
  }
  return nullptr;
}

void GoldStore::publish(const GoldKey& key, const SharedGold& gold) {
  const bool is_shared = gold && !gold->report.is_volatile && !gold->report.cancelled;
  std::vector<Waiter> waiters;
  {
    const std::scoped_lock lock(mutex_);
    const auto running = waiters_by_key_.find(key.run);
    if (running != waiters_by_key_.end()) {
      waiters = std::move(running->second);
      waiters_by_key_.erase(running);
    }
    if (is_shared && gold->rows && !gold->report.is_passing) {
      const auto size_bytes = gold->rows->size_bytes() + 2 * key.rows.size();
      golds_.keep(key.rows, gold, static_cast<std::int64_t>(size_bytes) + kEntryBytes);
    }
  }
  for (const Waiter& waiter : waiters) {
    waiter(is_shared ? gold : nullptr);
  }
}

}  // namespace finestep

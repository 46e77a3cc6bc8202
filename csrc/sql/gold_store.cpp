#include "sql/gold_store.h"

#include <utility>

namespace finestep {
namespace {

constexpr std::int64_t kEntryBytes = 1024;

}  // namespace

SharedGold GoldStore::find(const GoldKey& key, const Waiter& waiter, bool& must_run) {
  const std::scoped_lock lock(mutex_);
  must_run = false;
  if (const auto found = entry_by_key_.find(key.rows); found != entry_by_key_.end()) {
    entries_.splice(entries_.end(), entries_, found->second);
    return found->second->gold;
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
      remember(key.rows, gold);
    }
  }
  for (const Waiter& waiter : waiters) {
    waiter(is_shared ? gold : nullptr);
  }
}

void GoldStore::remember(const std::string& key, const SharedGold& gold) {
  // NOLINTNEXTLINE(bugprone-unchecked-optional-access): only golds with rows come here.
  const Comparand& rows = gold->rows.value();
  const auto size_bytes =
      static_cast<std::int64_t>(rows.size_bytes() + 2 * key.size()) + kEntryBytes;
  if (entry_by_key_.contains(key) || size_bytes > max_bytes_) {
    return;
  }
  entry_by_key_[key] =
      entries_.insert(entries_.end(), {.key = key, .gold = gold, .size_bytes = size_bytes});
  size_bytes_ += size_bytes;
  while (size_bytes_ > max_bytes_) {
    const Entry& oldest = entries_.front();
    size_bytes_ -= oldest.size_bytes;
    entry_by_key_.erase(oldest.key);
    entries_.pop_front();
  }
}

}  // namespace finestep

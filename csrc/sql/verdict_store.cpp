#include "sql/verdict_store.h"

#include <utility>

namespace finestep {
namespace {

constexpr std::int64_t kEntryBytes = 320;  // beside key and message

}  // namespace

std::string verdict_key(const Database& database, const MatchPair& pair,
                        const MatchSettings& settings) {
  ComparisonSettings comparison = settings.comparison;
  comparison.ordered = pair.ordered;
  std::string key = gold_key(database, pair.gold, comparison, settings).run;
  key.push_back(settings.early_exit ? '>' : '|');
  return key + pair.predicted;
}

std::optional<MatchReport> VerdictStore::find(const std::string& key) {
  const std::scoped_lock lock(mutex_);
  const auto found = entry_by_key_.find(key);
  if (found == entry_by_key_.end()) {
    return std::nullopt;
  }
  entries_.splice(entries_.end(), entries_, found->second);
  return found->second->report;
}

void VerdictStore::keep(const std::string& key, const MatchReport& report) {
  const auto size_bytes =
      static_cast<std::int64_t>(key.size() + report.report.message.size()) + kEntryBytes;
  if (!report.is_lasting || size_bytes > max_bytes_) {
    return;
  }
  const std::scoped_lock lock(mutex_);
  if (entry_by_key_.contains(key)) {
    return;
  }
  const auto entry =
      entries_.insert(entries_.end(), {.key = key, .report = report, .size_bytes = size_bytes});
  entry_by_key_[entry->key] = entry;
  size_bytes_ += size_bytes;
  while (size_bytes_ > max_bytes_) {
    const Entry& oldest = entries_.front();
    size_bytes_ -= oldest.size_bytes;
    entry_by_key_.erase(oldest.key);
    entries_.pop_front();
  }
}

}  // namespace finestep

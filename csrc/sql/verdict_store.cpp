#include "sql/verdict_store.h"

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
  return reports_.find(key);
}

void VerdictStore::keep(const std::string& key, const MatchReport& report) {
  if (report.is_lasting) {
    const auto size_bytes = static_cast<std::int64_t>(key.size() + report.report.message.size());
    const std::scoped_lock lock(mutex_);
    reports_.keep(key, report, size_bytes + kEntryBytes);
  }
}

}  // namespace finestep

// Verdicts on pairs that were asked before, within a budget of memory.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "sql/bounded_store.h"
#include "sql/matching.h"
#include "sql/pair_groups.h"

namespace finestep {

// All that the verdict on a pair depends on, its database being in the state it was found in.
std::string verdict_key(const Database& database, const MatchPair& pair,
                        const MatchSettings& settings);

class VerdictStore {
 public:
  explicit VerdictStore(std::int64_t max_bytes) : reports_(max_bytes) {}

  std::optional<MatchReport> find(const std::string& key);
  // Keeps a verdict if it will be the same next time; the longest unused ones go first.
  void keep(const std::string& key, const MatchReport& report);

 private:
  std::mutex mutex_;
  BoundedStore<MatchReport> reports_;
};

}  // namespace finestep

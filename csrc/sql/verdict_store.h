// Verdicts on pairs that were asked before, within a budget of memory.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "sql/matching.h"
#include "sql/pair_groups.h"

namespace finestep {

// All that the verdict on a pair depends on, its database being in the state it was found in.
std::string verdict_key(const Database& database, const MatchPair& pair,
                        const MatchSettings& settings);

class VerdictStore {
 public:
  explicit VerdictStore(std::int64_t max_bytes) : max_bytes_(max_bytes) {}

  std::optional<MatchReport> find(const std::string& key);
  // Keeps a verdict if it will be the same next time; the longest unused ones go first.
  void keep(const std::string& key, const MatchReport& report);

 private:
  struct Entry {
    std::string key;
    MatchReport report;
    std::int64_t size_bytes;
  };

  std::int64_t max_bytes_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the one unused for longest first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> entry_by_key_;
  std::int64_t size_bytes_ = 0;
};

}  // namespace finestep

// The pairs of a call of which no verdict is known yet, and all verdicts at its end.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sql/verdict_store.h"

namespace finestep {

class AskedPairs {
 public:
  AskedPairs(VerdictStore& store, const std::vector<Database>& databases,
             std::vector<MatchPair> pairs, const MatchSettings& settings,
             std::atomic<std::int64_t>& num_reused)
      : store_(&store) {
    reports_.reserve(pairs.size());
    for (MatchPair& pair : pairs) {
      std::string key = verdict_key(databases[pair.database], pair, settings);
      reports_.push_back(store.find(key));
      if (reports_.back()) {
        ++num_reused;
      } else {
        places_.push_back(reports_.size() - 1);
        keys_.push_back(std::move(key));
        unknown_.push_back(std::move(pair));
      }
    }
  }

  // The pairs that must be run, once.
  std::vector<MatchPair> taken() { return std::move(unknown_); }

  // All reports, with those of the pairs that were run: one per unit, and the unit of each pair.
  std::vector<std::optional<MatchReport>> with(const std::vector<std::optional<MatchReport>>& found,
                                               const std::vector<std::size_t>& unit_of_pair) && {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      const auto& report = found[unit_of_pair[i]];
      if (report) {
        store_->keep(keys_[i], *report);
      }
      reports_[places_[i]] = report;
    }
    return std::move(reports_);
  }

 private:
  VerdictStore* store_;
  std::vector<std::optional<MatchReport>> reports_;
  std::vector<std::size_t> places_;
  std::vector<std::string> keys_;
  std::vector<MatchPair> unknown_;
};

}  // namespace finestep

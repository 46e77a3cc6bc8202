// One gold query and one prediction: run, made ready for comparison, compared.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "compare/comparison.h"
#include "sql/gold_store.h"
#include "sql/query.h"
#include "sql/runner.h"

namespace finestep {

// The outcome of a pair. `report` is the gold query's if that failed, else the predicted one's.
struct MatchReport {
  bool gold_failed = true;
  QueryReport report;
  Outcome outcome;
  bool is_lasting = false;  // it will be the same next time, as long as the file is
};

struct MatchSettings {
  ComparisonSettings comparison;
  QueryLimits limits;
  bool early_exit = true;  // stop a prediction once it cannot equal the gold any more
  bool utf8_only = false;  // text that is not valid UTF-8 is a failure
};

// Under what a gold is remembered. `comparison` is that of the settings with the order of its pair.
GoldKey gold_key(const Database& database, const std::string& sql,
                 const ComparisonSettings& comparison, const MatchSettings& settings);

// Runs a gold query. Its report says whether it ran out of memory.
SharedGold run_gold(SqlRunner& runner, const Database& database, const std::string& sql,
                    const ComparisonSettings& comparison, const MatchSettings& settings,
                    const std::atomic<bool>& cancelled);

// Runs a prediction and compares it with a gold that has rows.
MatchReport match_predicted(SqlRunner& runner, const Database& database, const std::string& sql,
                            const Gold& gold, const ComparisonSettings& comparison,
                            const MatchSettings& settings, const std::atomic<bool>& cancelled);

// What a gold without rows says of every prediction.
MatchReport failed_gold(const QueryReport& report);

}  // namespace finestep

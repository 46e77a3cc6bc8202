// Predicted queries compared with their golds: each gold run once, equal predictions run once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sql/matching.h"
#include "sql/pair_groups.h"
#include "sql/runner.h"
#include "threads/job_queue.h"

namespace finestep {

class MatchBatch : public Batch {
 public:
  MatchBatch(std::shared_ptr<SqlRunner> runner, std::shared_ptr<JobQueue> queue,
             std::vector<Database> databases, std::vector<MatchPair> pairs,
             const MatchSettings& settings);

  void start();
  bool perform(std::size_t task, bool alone) override;
  void abandon() override;

  // One report per unit of work, and the unit of every pair. Pairs that are alike share one, unless
  // they depend on time or chance. No report yet: nullopt.
  std::vector<std::optional<MatchReport>> reports();
  std::vector<std::size_t> unit_of_pair();

 private:
  struct GoldSlot {
    std::size_t database;
    std::string sql;
    GoldKey key;
    ComparisonSettings comparison;
    SharedGold gold;
    std::vector<std::size_t> units;
    std::size_t num_open = 0;  // units that still need it
    bool is_ours = false;      // this batch runs it, and has not published it
  };
  struct Unit {
    std::size_t slot;
    std::string predicted;
    std::vector<std::size_t> pairs;
    std::optional<MatchReport> report;
  };

  void request_golds(const std::vector<std::size_t>& slots);
  void receive_gold(std::size_t slot, const SharedGold& gold);
  std::vector<std::size_t> take_gold(std::size_t slot, const SharedGold& gold);
  bool run_gold(std::size_t slot, bool alone);
  bool run_predicted(std::size_t unit, bool alone);
  std::vector<std::size_t> split(std::size_t unit);
  void finish(std::size_t unit, MatchReport report);

  std::shared_ptr<SqlRunner> runner_;
  std::shared_ptr<JobQueue> queue_;
  std::vector<Database> databases_;
  MatchSettings settings_;
  std::vector<std::size_t> unit_of_pair_;
  std::deque<GoldSlot> slots_;  // task i is slot i; those after are units
  std::deque<Unit> units_;      // grows while volatile pairs are told apart
  std::mutex mutex_;            // guards what tasks share
};

}  // namespace finestep

// Pairs of queries to be compared, as work for workers: the pairs of one gold go to one worker.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sql/matching.h"
#include "sql/pair_groups.h"
#include "sql/runner.h"
#include "workers/counts.h"
#include "workers/gold_places.h"
#include "workers/requests.h"
#include "workers/work.h"

namespace finestep {

class MatchWork : public Work {
 public:
  // `call` is a number that no other call of this process has.
  MatchWork(std::uint64_t call, std::vector<Database> databases, std::vector<MatchPair> pairs,
            const MatchSettings& settings, std::chrono::nanoseconds latest, GoldPlaces& places,
            std::size_t num_places, WorkCounts& counts);

  [[nodiscard]] bool is_done() const override { return num_open_ == 0; }
  [[nodiscard]] std::size_t num_open() const override { return num_open_; }
  [[nodiscard]] std::size_t wanted_place() const override;
  std::string_view share(Lease lease, std::size_t place, std::size_t num_queries) override;
  bool take(Lease lease, std::string_view message) override;
  void lose(Lease lease, const RunningQuery* query, Loss loss) override;

  // One report per unit, and the unit of every pair; none yet: nullopt.
  [[nodiscard]] const std::vector<std::optional<MatchReport>>& reports() const { return reports_; }
  [[nodiscard]] const std::vector<std::size_t>& unit_of_pair() const { return unit_of_pair_; }

 private:
  // What is known of a gold.
  enum class Gold : std::uint8_t {
    unknown,
    asked,       // one worker has it: nobody else gets pairs of it before it answers
    known,       // it has rows, or may be run again
    is_volatile  // it has rows, which only the worker at `place` knows
  };
  struct Group {
    GoldGroup given;
    std::uint64_t hash = 0;
    Gold gold = Gold::unknown;
    std::size_t place = kAnyPlace;    // where it runs, or ran last
    std::deque<std::size_t> waiting;  // units
    int num_crashes = 0;
    bool is_queued = false;
  };
  struct Lent {
    std::size_t place = 0;
    std::vector<std::size_t> units;
  };
  using Queue = std::deque<std::size_t>;  // of groups

  [[nodiscard]] Queue& queue_at(std::size_t place);
  void enqueue(std::size_t group, bool first);
  std::optional<std::size_t> next_group(std::size_t place);
  void take_answer(Lent& lent, MatchAnswer answer);
  void split(std::size_t unit);
  void blame(const RunningQuery& query, Loss loss, const std::vector<std::size_t>& units);
  void finish(std::size_t unit, MatchReport report);
  void fail_gold(Group& group, const QueryReport& report);

  std::uint64_t call_;
  std::vector<Database> databases_;
  MatchSettings settings_;
  std::chrono::nanoseconds latest_;
  GoldPlaces* places_;
  WorkCounts* counts_;
  std::vector<Group> groups_;
  std::vector<MatchUnit> units_;
  std::vector<std::size_t> unit_of_pair_;
  std::vector<std::optional<MatchReport>> reports_;
  std::vector<int> num_crashes_;  // by unit
  std::vector<Queue> queues_;     // by place; the last is for any
  std::unordered_map<Lease, Lent> lent_;
  std::size_t num_open_ = 0;
  MessageWriter writer_;
};

}  // namespace finestep

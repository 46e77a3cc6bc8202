// Which rollouts of a group were in which state, how often, and what they got from there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace finestep {

// The states of one group at a time; keeps its memory from group to group. Steps are numbered in
// the order in which their rollouts are added.
class StateVisits {
 public:
  // The other rollouts that were in the state of a step.
  struct Others {
    double total;  // of their values at the same visit, or at their last if they had fewer
    double share;  // of each of them in the mean: 1 / (how many + shrinkage), 0 for 1 / 0
  };

  // Begins another group, of at most that many steps.
  void clear(std::size_t num_steps);

  // Adds a rollout by the state of each of its steps.
  void add_rollout(std::span<const std::int64_t> step_state);

  // Adds up the values of all steps; `shrinkage` is a number of visitors beside the rollouts.
  void total(std::span<const double> step_value, double shrinkage);

  // After `total`, of the same values.
  [[nodiscard]] Others others(std::size_t step, double step_value) const {
    const std::uint32_t visit = steps_[step].visit;
    return {.total = totals_[visit] - step_value, .share = shares_[visit]};
  }

 private:
  struct Step {
    std::uint32_t visit;
    bool is_last_visit;  // of its rollout to the state
  };
  struct Visit {  // the first one of rollouts to a state, or their second, ...
    std::uint32_t first;
    std::uint32_t next;
    // For a first visit:
    std::uint32_t num_visitors;   // rollouts
    std::uint32_t rollout_start;  // the first step of the rollout that was here last
    std::uint32_t last_step;      // of it in this state
  };

  std::uint32_t first_visit(std::int64_t key);
  std::uint32_t visit_after(std::uint32_t visit);
  std::uint32_t add_visit(std::uint32_t first);

  std::uint32_t num_steps_ = 0;
  std::uint32_t num_visits_ = 0;
  std::vector<Step> steps_;           // room for all steps of the group, here
  std::vector<Visit> visits_;         // and here
  std::uint32_t shift_ = 0;           // of a mixed key to a slot of a table with open addressing
  std::vector<std::uint32_t> slots_;  // 1 + the first visit to a state, or 0
  std::vector<std::int64_t> keys_;    // of the slots that are not 0
  std::vector<double> totals_;        // of each visit
  std::vector<double> ended_;         // of rollouts that had fewer, a part of the totals
  std::vector<double> shares_;
};

}  // namespace finestep

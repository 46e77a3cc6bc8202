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
  // The other rollouts that were in the state of a step, and `pseudo` more.
  struct Others {
    double total;  // of their values at the same visit, or at their last if they had fewer
    double share;  // of each: 1 / (their number + pseudo), 0 where there are none
  };

  // Begins another group.
  void clear();

  // Adds a rollout by the state of each of its steps.
  void add_rollout(std::span<const std::int64_t> step_state);

  // Adds up the values of all steps.
  void total(std::span<const double> step_value, double pseudo);

  // After `total`, of the same values.
  [[nodiscard]] Others others(std::size_t step, double step_value) const {
    const State& state = states_[steps_[step].state];
    return {.total = totals_[state.first_total + steps_[step].visit] - step_value,
            .share = state.share};
  }

 private:
  struct Step {
    std::uint32_t state;
    std::uint32_t visit;  // how many earlier steps of its rollout were in the state
    bool is_last_visit;   // of its rollout
  };
  struct State {
    double share;                // see `Others`
    std::uint32_t slot;          // its place in `slots_`
    std::uint32_t num_visitors;  // rollouts
    std::uint32_t most_visits;   // of one rollout
    std::uint32_t first_step;    // of the rollout that was here last
    std::uint32_t last_step;     // of it in this state
    std::uint32_t first_total;   // its place in `totals_`
  };
  struct Slot {  // of a table with open addressing
    std::int64_t key;
    std::uint32_t number;  // 1 + that of the state, or 0
  };

  std::uint32_t state_of(std::int64_t key);
  void grow();

  std::vector<Step> steps_;
  std::vector<State> states_;
  std::vector<Slot> slots_;
  std::vector<double> totals_;  // of each state, one for each visit
};

}  // namespace finestep

// The rollouts of a group, and the return of each of their steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "credit/credit_settings.h"
#include "credit/group_map.h"

namespace finestep {

// What advantages are worked out from.
struct Rewards {
  std::span<const double> step_reward;       // [S]
  std::span<const double> rollout_outcome;   // [R]
  std::span<const std::int64_t> step_state;  // [S] for scope `state`, else empty
  std::span<const double> step_value;        // [S] for scope `value`, else empty
};

// A rollout that has steps.
struct GroupRollout {
  std::size_t first;  // its first step in the batch
  std::size_t num_steps;
  std::size_t place;  // of its first step among those of the group
  double outcome;
  double process_size;  // sum of the absolute values of its rewards and their baselines

  // Where it stands at a position, as a place in the group: at its last step after its end.
  [[nodiscard]] std::size_t at(std::size_t position) const {
    return place + std::min(position, num_steps - 1);
  }

  // Its part of something by step of the batch.
  template <typename Value>
  [[nodiscard]] std::span<Value> part(std::span<Value> step_value) const {
    return step_value.subspan(first, num_steps);
  }

  // How far apart roundings alone take two such returns, in epsilons.
  [[nodiscard]] double rounding(const Channel& channel) const {
    const double times = 16 + 4 * static_cast<double>(num_steps);
    return times *
           (channel.process_weight * process_size + channel.outcome_weight * std::abs(outcome));
  }
};

// One group at a time; keeps its memory from group to group.
class GroupReturns {
 public:
  GroupReturns(const GroupMap& map, const Rewards& rewards, const CreditSettings& settings,
               double epsilon)
      : map_(map), rewards_(rewards), settings_(settings), epsilon_(epsilon) {}

  // Lists the group's rollouts, except those without steps, which are compared with none.
  void enter(std::size_t group);

  [[nodiscard]] std::span<const GroupRollout> rollouts() const { return rollouts_; }
  [[nodiscard]] std::size_t num_steps() const { return num_steps_; }
  [[nodiscard]] std::size_t longest() const { return longest_; }
  [[nodiscard]] const Rewards& rewards() const { return rewards_; }

  // Writes discounted returns of both rewards, then their moving average: one for each step.
  void write(const Channel& channel, std::span<double> group_value) const;

  // Returns the sum of a rollout's mixed rewards.
  [[nodiscard]] double total(const GroupRollout& rollout, const Channel& channel) const;

  // Returns how far apart roundings alone take returns of rollouts with a step at that position.
  [[nodiscard]] double rounding(const Channel& channel, std::size_t position) const;

 private:
  GroupMap map_;
  Rewards rewards_;
  CreditSettings settings_;
  double epsilon_;
  std::vector<GroupRollout> rollouts_;
  std::size_t num_steps_ = 0;
  std::size_t longest_ = 0;
};

}  // namespace finestep

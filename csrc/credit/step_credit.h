// From rewards to one advantage per step.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace finestep {

// Named as in Python's CreditConfig.
enum class Scope : std::uint8_t { pooled, per_index, trajectory, state, value };
enum class Channels : std::uint8_t { joint, decoupled };
enum class Std : std::uint8_t { sample, population, none };

struct CreditSettings {
  double process_baseline = 0;
  double process_weight = 0;
  double outcome_weight = 0;
  double process_discount = 1;
  double outcome_discount = 1;
  double smoothing = 1;
  Scope scope = Scope::pooled;
  double state_shrinkage = 0;
  double gae_lambda = 1;
  Channels channels = Channels::joint;
  Std std = Std::sample;
  double std_floor = 0;
  double epsilon = 0;
  bool leave_one_out = false;
  double step_weight = 1;
  double rollout_weight = 0;
  std::optional<double> advantage_clip;
};

// Steps -> rollouts -> groups.
struct GroupMap {
  std::span<const std::int64_t> step_offsets;    // [R+1] the steps of a rollout
  std::span<const std::int64_t> group_offsets;   // [G+1] the places of a group in group_rollouts
  std::span<const std::int64_t> group_rollouts;  // [R]
};

// What advantages are worked out from.
struct Rewards {
  std::span<const double> step_reward;       // [S]
  std::span<const double> rollout_outcome;   // [R]
  std::span<const std::int64_t> step_state;  // [S] for scope `state`, else empty
  std::span<const double> step_value;        // [S] for scope `value`, else empty
};

// Throws std::out_of_range where an index could lead outside the arrays.
void check_groups(const GroupMap& map, std::int64_t num_steps);

// Returns the advantage of each step: [S]. A spread that rounding alone may cause counts as none;
// `epsilon` is the distance of rewards around 1. The result is the same for any number of threads.
std::vector<double> step_advantage(const GroupMap& map, const Rewards& rewards,
                                   const CreditSettings& settings, double epsilon, int num_threads);

}  // namespace finestep

// How rewards become advantages: the fields of Python's CreditConfig that computing needs.
#pragma once

#include <cstdint>
#include <optional>

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

// The rewards that are compared: those of one channel, or of both.
struct Channel {
  double process_weight;
  double outcome_weight;
  double std_floor;
};

}  // namespace finestep

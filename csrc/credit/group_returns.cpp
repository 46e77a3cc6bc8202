#include "credit/group_returns.h"

namespace finestep {

void GroupReturns::enter(std::size_t group) {
  rollouts_.clear();
  num_steps_ = 0;
  longest_ = 0;
  for (auto i = map_.group_offsets[group]; i < map_.group_offsets[group + 1]; ++i) {
    const auto r = static_cast<std::size_t>(map_.group_rollouts[static_cast<std::size_t>(i)]);
    const auto first = map_.step_offsets[r];
    const auto size = static_cast<std::size_t>(map_.step_offsets[r + 1] - first);
    if (size == 0) {
      continue;
    }
    GroupRollout rollout{.first = static_cast<std::size_t>(first),
                         .num_steps = size,
                         .place = num_steps_,
                         .outcome = rewards_.rollout_outcome[r],
                         .process_size = 0};
    for (const double reward : rollout.part(rewards_.step_reward)) {
      rollout.process_size += std::abs(reward) + settings_.process_baseline;
    }
    rollouts_.push_back(rollout);
    num_steps_ += size;
    longest_ = std::max(longest_, size);
  }
}

void GroupReturns::write(const Channel& channel, std::span<double> group_value) const {
  for (const GroupRollout& rollout : rollouts_) {
    const auto reward = rollout.part(rewards_.step_reward);
    const auto value = group_value.subspan(rollout.place, rollout.num_steps);
    double process = 0;
    double outcome = channel.outcome_weight * rollout.outcome;
    for (std::size_t s = reward.size(); s-- > 0;) {
      process = channel.process_weight * (reward[s] - settings_.process_baseline) +
                settings_.process_discount * process;
      value[s] = process + outcome;
      outcome *= settings_.outcome_discount;
    }
    if (settings_.smoothing != 1) {
      for (std::size_t s = 1; s < value.size(); ++s) {
        value[s] = settings_.smoothing * value[s] + (1 - settings_.smoothing) * value[s - 1];
      }
    }
  }
}

double GroupReturns::total(const GroupRollout& rollout, const Channel& channel) const {
  double process = 0;
  for (const double reward : rollout.part(rewards_.step_reward)) {
    process += reward - settings_.process_baseline;
  }
  return channel.process_weight * process + channel.outcome_weight * rollout.outcome;
}

double GroupReturns::rounding(const Channel& channel, std::size_t position) const {
  double largest = 0;
  for (const GroupRollout& rollout : rollouts_) {
    if (position < rollout.num_steps) {
      largest = std::max(largest, rollout.rounding(channel));
    }
  }
  return epsilon_ * largest;
}

}  // namespace finestep

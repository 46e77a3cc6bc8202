#include "credit/step_credit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "credit/step_map.h"
#include "threads/parallel.h"

namespace finestep {
namespace {

constexpr std::int64_t kGroupsPerChunk = 8;
// Below this, waking another thread costs more than it saves.
constexpr std::int64_t kStepsPerThread = 4096;

// The rewards that are compared: those of one channel, or of both.
struct Channel {
  double process_weight;
  double outcome_weight;
  double std_floor;
};

// The credit of one group at a time; keeps its memory from group to group.
class GroupCredit {
 public:
  GroupCredit(const GroupMap& map, std::span<const double> step_reward,
              std::span<const double> rollout_outcome, const CreditSettings& settings,
              double epsilon)
      : map_(map),
        step_reward_(step_reward),
        rollout_outcome_(rollout_outcome),
        settings_(settings),
        epsilon_(epsilon) {}

  // Writes the advantages of the steps of a group.
  void credit(std::size_t group, std::span<double> step_advantage) {
    enter(group);
    for (const Rollout& rollout : rollouts_) {
      std::fill_n(step_advantage.begin() + rollout.first, rollout.num_steps, 0.0);
    }
    compare_channels(settings_.scope, settings_.step_weight, step_advantage);
    compare_channels(Scope::trajectory, settings_.rollout_weight, step_advantage);
    if (settings_.advantage_clip) {
      const double bound = *settings_.advantage_clip;
      for (const Rollout& rollout : rollouts_) {
        for (double& advantage : steps(rollout, step_advantage)) {
          advantage = std::clamp(advantage, -bound, bound);
        }
      }
    }
  }

 private:
  struct Rollout {
    std::int64_t first;  // its first step
    std::int64_t num_steps;
    std::size_t place;  // of its first step in `value_`
    double outcome;
    double process_size;  // sum of the absolute values of its rewards and their baselines

    // How far apart roundings alone take two such returns, in epsilons.
    [[nodiscard]] double rounding(const Channel& channel) const {
      const double times = 16 + 4 * static_cast<double>(num_steps);
      return times *
             (channel.process_weight * process_size + channel.outcome_weight * std::abs(outcome));
    }
  };

  static std::span<double> steps(const Rollout& rollout, std::span<double> step_value) {
    return step_value.subspan(static_cast<std::size_t>(rollout.first),
                              static_cast<std::size_t>(rollout.num_steps));
  }

  // Lists the group's rollouts, except those without steps, which are compared with none.
  void enter(std::size_t group) {
    rollouts_.clear();
    std::size_t place = 0;
    longest_ = 0;
    for (auto i = map_.group_offsets[group]; i < map_.group_offsets[group + 1]; ++i) {
      const auto r = static_cast<std::size_t>(map_.group_rollouts[static_cast<std::size_t>(i)]);
      const auto first = map_.step_offsets[r];
      const auto size = map_.step_offsets[r + 1] - first;
      if (size > 0) {
        rollouts_.push_back({.first = first,
                             .num_steps = size,
                             .place = place,
                             .outcome = rollout_outcome_[r],
                             .process_size = 0});
        for (const double reward : rewards(rollouts_.back())) {
          rollouts_.back().process_size += std::abs(reward) + settings_.process_baseline;
        }
        place += static_cast<std::size_t>(size);
        longest_ = std::max(longest_, size);
      }
    }
    value_.resize(place);
  }

  void compare_channels(Scope scope, double weight, std::span<double> step_advantage) {
    if (weight == 0) {
      return;
    }
    const double w_p = settings_.process_weight;
    const double w_o = settings_.outcome_weight;
    if (settings_.channels == Channels::joint) {
      const Channel mixed{
          .process_weight = w_p, .outcome_weight = w_o, .std_floor = settings_.std_floor * w_o};
      compare(scope, mixed, weight, step_advantage);
    } else {
      const Channel process{
          .process_weight = 1, .outcome_weight = 0, .std_floor = settings_.std_floor};
      const Channel outcome{
          .process_weight = 0, .outcome_weight = 1, .std_floor = settings_.std_floor};
      compare(scope, process, weight * w_p, step_advantage);
      compare(scope, outcome, weight * w_o, step_advantage);
    }
  }

  // step_advantage += weight * the advantages over the scope.
  void compare(Scope scope, const Channel& channel, double weight,
               std::span<double> step_advantage) {
    if (scope == Scope::trajectory) {
      compare_rollouts(channel, weight, step_advantage);
      return;
    }
    for (const Rollout& rollout : rollouts_) {
      returns(rollout, channel);
    }
    if (scope == Scope::pooled) {
      relative(value_, largest_rounding(channel, 0), channel.std_floor);
    } else {
      compare_positions(channel);
    }
    for (const Rollout& rollout : rollouts_) {
      const double* value = value_.data() + rollout.place;
      for (double& advantage : steps(rollout, step_advantage)) {
        advantage += weight * *value++;
      }
    }
  }

  void compare_rollouts(const Channel& channel, double weight, std::span<double> step_advantage) {
    set_.clear();
    for (const Rollout& rollout : rollouts_) {
      double process = 0;
      for (const double reward : rewards(rollout)) {
        process += reward - settings_.process_baseline;
      }
      set_.push_back(channel.process_weight * process + channel.outcome_weight * rollout.outcome);
    }
    relative(set_, largest_rounding(channel, 0), channel.std_floor);
    for (std::size_t member = 0; member < set_.size(); ++member) {
      for (double& advantage : steps(rollouts_[member], step_advantage)) {
        advantage += weight * set_[member];
      }
    }
  }

  void compare_positions(const Channel& channel) {
    for (std::int64_t position = 0; position < longest_; ++position) {
      set_.clear();
      for (const Rollout& rollout : rollouts_) {
        if (position < rollout.num_steps) {
          set_.push_back(value_[rollout.place + static_cast<std::size_t>(position)]);
        }
      }
      relative(set_, largest_rounding(channel, position), channel.std_floor);
      auto member = set_.begin();
      for (const Rollout& rollout : rollouts_) {
        if (position < rollout.num_steps) {
          value_[rollout.place + static_cast<std::size_t>(position)] = *member++;
        }
      }
    }
  }

  // Among the rollouts that have a step at that position.
  [[nodiscard]] double largest_rounding(const Channel& channel, std::int64_t position) const {
    double largest = 0;
    for (const Rollout& rollout : rollouts_) {
      if (position < rollout.num_steps) {
        largest = std::max(largest, rollout.rounding(channel));
      }
    }
    return epsilon_ * largest;
  }

  [[nodiscard]] std::span<const double> rewards(const Rollout& rollout) const {
    return step_reward_.subspan(static_cast<std::size_t>(rollout.first),
                                static_cast<std::size_t>(rollout.num_steps));
  }

  // Discounted returns of both rewards, then their moving average.
  void returns(const Rollout& rollout, const Channel& channel) {
    const auto reward = rewards(rollout);
    const auto value = std::span(value_).subspan(rollout.place, reward.size());
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

  // Replaces each value by its advantage over the others; 0 for all if there is only one, and where
  // they are no farther apart than `rounding`.
  void relative(std::span<double> set, double rounding, double std_floor) const {
    double total = 0;
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    for (const double value : set) {
      total += value;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    const auto count = static_cast<double>(set.size());
    if (set.size() < 2 || (high - low <= rounding && !std::isnan(total))) {
      std::ranges::fill(set, 0.0);
      return;
    }
    const double mean = total / count;
    double squares = 0;
    for (double& value : set) {
      value -= mean;
      squares += value * value;
    }
    double factor = settings_.leave_one_out ? count / (count - 1) : 1;
    if (settings_.std != Std::none) {
      const double freedom = settings_.std == Std::sample ? count - 1 : count;
      factor /= std::max(std::sqrt(squares / freedom), std_floor) + settings_.epsilon;
    }
    for (double& value : set) {
      value *= factor;
    }
  }

  GroupMap map_;
  std::span<const double> step_reward_;
  std::span<const double> rollout_outcome_;
  CreditSettings settings_;
  double epsilon_;
  std::vector<Rollout> rollouts_;
  std::int64_t longest_ = 0;
  std::vector<double> value_;
  std::vector<double> set_;
};

}  // namespace

void check_groups(const GroupMap& map, std::int64_t num_steps) {
  check_offsets(map.step_offsets, num_steps);
  const auto num_rollouts = static_cast<std::int64_t>(map.step_offsets.size()) - 1;
  check_offsets(map.group_offsets, num_rollouts);
  const auto is_rollout = [&](std::int64_t r) { return 0 <= r && r < num_rollouts; };
  if (std::ssize(map.group_rollouts) != num_rollouts ||
      !std::ranges::all_of(map.group_rollouts, is_rollout)) {
    throw std::out_of_range("group_rollouts holds something that is no rollout");
  }
}

std::vector<double> step_advantage(const GroupMap& map, std::span<const double> step_reward,
                                   std::span<const double> rollout_outcome,
                                   const CreditSettings& settings, double epsilon,
                                   int num_threads) {
  std::vector<double> advantage(step_reward.size());
  const auto num_groups = static_cast<std::int64_t>(map.group_offsets.size()) - 1;
  const auto useful = num_chunks(std::ssize(step_reward), kStepsPerThread);
  const auto team = static_cast<int>(std::min<std::int64_t>(num_threads, useful));
  for_each_chunk(num_chunks(num_groups, kGroupsPerChunk), team, [&](std::int64_t chunk) {
    GroupCredit group(map, step_reward, rollout_outcome, settings, epsilon);
    const std::int64_t last = std::min(num_groups, (chunk + 1) * kGroupsPerChunk);
    for (std::int64_t g = chunk * kGroupsPerChunk; g < last; ++g) {
      group.credit(static_cast<std::size_t>(g), advantage);
    }
  });
  return advantage;
}

}  // namespace finestep

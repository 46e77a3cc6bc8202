#include "credit/step_credit.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "credit/spread.h"
#include "credit/state_visits.h"
#include "threads/parallel.h"

namespace finestep {
namespace {

constexpr std::int64_t kGroupsPerChunk = 8;
// Below this, waking another thread costs more than it saves.
constexpr std::int64_t kStepsPerThread = 4096;

// The credit of one group at a time; keeps its memory from group to group.
class GroupCredit {
 public:
  GroupCredit(const GroupMap& map, const Rewards& rewards, const CreditSettings& settings,
              double epsilon)
      : group_(map, rewards, settings, epsilon), settings_(settings) {}

  // Writes the advantages of the steps of a group.
  void credit(std::size_t group, std::span<double> step_advantage) {
    group_.enter(group);
    value_.resize(group_.num_steps());
    advantage_.resize(group_.num_steps());
    for (const GroupRollout& rollout : group_.rollouts()) {
      std::ranges::fill(rollout.part(step_advantage), 0.0);
    }
    if (settings_.scope == Scope::value) {
      credit_value(settings_.step_weight, step_advantage);
    } else {
      compare_channels(settings_.scope, settings_.step_weight, step_advantage);
    }
    compare_channels(Scope::trajectory, settings_.rollout_weight, step_advantage);
    if (settings_.advantage_clip) {
      const double bound = *settings_.advantage_clip;
      for (const GroupRollout& rollout : group_.rollouts()) {
        for (double& advantage : rollout.part(step_advantage)) {
          advantage = std::clamp(advantage, -bound, bound);
        }
      }
    }
  }

 private:
  void compare_channels(Scope scope, double weight, std::span<double> step_advantage) {
    if (weight == 0) {
      return;
    }
    if (scope == Scope::state) {
      list_visits();
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
      compare(scope, process, weight * w_p, step_advantage);
      compare(scope, outcomes(), weight * w_o, step_advantage);
    }
  }

  [[nodiscard]] Channel outcomes() const {
    return {.process_weight = 0, .outcome_weight = 1, .std_floor = settings_.std_floor};
  }

  // step_advantage += weight * the advantages over the scope.
  void compare(Scope scope, const Channel& channel, double weight,
               std::span<double> step_advantage) {
    if (scope == Scope::trajectory) {
      compare_rollouts(channel, weight, step_advantage);
      return;
    }
    group_.write(channel, value_);
    if (scope == Scope::state) {
      compare_states(channel);
    } else {
      compare_positions(scope, channel);
    }
    for (const GroupRollout& rollout : group_.rollouts()) {
      const double* from = advantage_.data() + rollout.place;
      for (double& advantage : rollout.part(step_advantage)) {
        advantage += weight * *from++;
      }
    }
  }

  void compare_rollouts(const Channel& channel, double weight, std::span<double> step_advantage) {
    set_.clear();
    for (const GroupRollout& rollout : group_.rollouts()) {
      set_.push_back(group_.total(rollout, channel));
    }
    compare_with_each_other(set_, group_.rounding(channel, 0), channel.std_floor, settings_);
    const double* from = set_.data();
    for (const GroupRollout& rollout : group_.rollouts()) {
      const double of_rollout = weight * *from++;
      for (double& advantage : rollout.part(step_advantage)) {
        advantage += of_rollout;
      }
    }
  }

  // Scope `per_index`: with the steps at the same position. Scope `pooled`: with where every
  // rollout stands there, also after its end.
  void compare_positions(Scope scope, const Channel& channel) {
    const bool every = scope == Scope::pooled;
    const double widest = group_.rounding(channel, 0);
    for (std::size_t position = 0; position < group_.longest(); ++position) {
      set_.clear();
      for (const GroupRollout& rollout : group_.rollouts()) {
        if (every || position < rollout.num_steps) {
          set_.push_back(value_[rollout.at(position)]);
        }
      }
      const double rounding = every ? widest : group_.rounding(channel, position);
      compare_with_each_other(set_, rounding, channel.std_floor, settings_);
      auto member = set_.begin();
      for (const GroupRollout& rollout : group_.rollouts()) {
        if (position < rollout.num_steps) {
          advantage_[rollout.at(position)] = *member;
        }
        if (every || position < rollout.num_steps) {
          ++member;
        }
      }
    }
  }

  void list_visits() {
    visits_.clear(group_.num_steps());
    for (const GroupRollout& rollout : group_.rollouts()) {
      visits_.add_rollout(rollout.part(group_.rewards().step_state));
    }
  }

  // Scope `state`: with what others got from the same state, shrunk towards where all others stand.
  void compare_states(const Channel& channel) {
    const auto rollouts = group_.rollouts();
    if (rollouts.size() < 2) {
      std::ranges::fill(advantage_, 0.0);
      return;
    }
    visits_.total(value_, settings_.state_shrinkage);
    const double pseudo = settings_.state_shrinkage / (static_cast<double>(rollouts.size()) - 1);
    const double rounding = group_.rounding(channel, 0);
    const double std = standard_deviation(value_, settings_);
    const double factor = 1 / divisor(std, channel.std_floor, settings_);
    set_.assign(group_.longest(), 0.0);  // where all rollouts stand, added up
    for (const GroupRollout& rollout : rollouts) {
      for (std::size_t position = 0; position < set_.size(); ++position) {
        set_[position] += value_[rollout.at(position)];
      }
    }
    for (const GroupRollout& rollout : rollouts) {
      for (std::size_t position = 0; position < rollout.num_steps; ++position) {
        const std::size_t step = rollout.place + position;
        const double own = value_[step];
        const auto others = visits_.others(step, own);
        const double mean = (others.total + (pseudo * (set_[position] - own))) * others.share;
        const double deviation = own - mean;
        const bool is_nothing = others.share == 0 || std::abs(deviation) <= rounding;
        advantage_[step] = is_nothing ? 0 : deviation * factor;
      }
    }
  }

  // Scope `value`: differences of the given value, and what each step's flaws cost.
  void credit_value(double weight, std::span<double> step_advantage) {
    if (weight == 0) {
      return;
    }
    const double carried = settings_.outcome_discount * settings_.gae_lambda;
    const double outcome_weight = settings_.outcome_weight * outcome_factor();
    for (const GroupRollout& rollout : group_.rollouts()) {
      const auto reward = rollout.part(group_.rewards().step_reward);
      const auto value = rollout.part(group_.rewards().step_value);
      const auto advantage = rollout.part(step_advantage);
      double gained = 0;
      double paid = 0;
      double after = rollout.outcome;
      for (std::size_t s = reward.size(); s-- > 0;) {
        gained = (after - value[s]) + (carried * gained);
        paid = (reward[s] - settings_.process_baseline) + (settings_.process_discount * paid);
        after = settings_.outcome_discount * value[s];
        advantage[s] += weight * ((outcome_weight * gained) + (settings_.process_weight * paid));
      }
    }
  }

  // 1 / the spread of the group's outcomes; 0 where there is none.
  double outcome_factor() {
    if (settings_.std == Std::none) {
      return 1;
    }
    set_.clear();
    for (const GroupRollout& rollout : group_.rollouts()) {
      set_.push_back(rollout.outcome);
    }
    const bool alike = is_alike(set_, group_.rounding(outcomes(), 0));
    const double std = alike ? 0 : standard_deviation(set_, settings_);
    return std == 0 && settings_.std_floor == 0 ? 0
                                                : 1 / divisor(std, settings_.std_floor, settings_);
  }

  GroupReturns group_;
  CreditSettings settings_;
  StateVisits visits_;
  std::vector<double> value_;      // of each step of the group
  std::vector<double> advantage_;  // what becomes of it
  std::vector<double> set_;        // what is compared
};

}  // namespace

std::vector<double> step_advantage(const GroupMap& map, const Rewards& rewards,
                                   const CreditSettings& settings, double epsilon,
                                   int num_threads) {
  const std::span<const double> step_reward = rewards.step_reward;
  std::vector<double> advantage(step_reward.size());
  const auto num_groups = static_cast<std::int64_t>(map.group_offsets.size()) - 1;
  const auto useful = num_chunks(std::ssize(step_reward), kStepsPerThread);
  const auto team = static_cast<int>(std::min<std::int64_t>(num_threads, useful));
  for_each_chunk(num_chunks(num_groups, kGroupsPerChunk), team, [&](std::int64_t chunk) {
    GroupCredit group(map, rewards, settings, epsilon);
    const std::int64_t last = std::min(num_groups, (chunk + 1) * kGroupsPerChunk);
    for (std::int64_t g = chunk * kGroupsPerChunk; g < last; ++g) {
      group.credit(static_cast<std::size_t>(g), advantage);
    }
  });
  return advantage;
}

}  // namespace finestep

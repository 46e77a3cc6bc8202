#include "credit/step_credit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "credit/state_visits.h"
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
  GroupCredit(const GroupMap& map, const Rewards& rewards, const CreditSettings& settings,
              double epsilon)
      : map_(map), rewards_(rewards), settings_(settings), epsilon_(epsilon) {}

  // Writes the advantages of the steps of a group.
  void credit(std::size_t group, std::span<double> step_advantage) {
    enter(group);
    for (const Rollout& rollout : rollouts_) {
      std::fill_n(step_advantage.begin() + rollout.first, rollout.num_steps, 0.0);
    }
    if (settings_.scope == Scope::value) {
      credit_value(step_advantage);
    } else {
      compare_channels(settings_.scope, settings_.step_weight, step_advantage);
    }
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

    // Where it stands at a position, as a place in `value_`: at its last step after its end.
    [[nodiscard]] std::size_t at(std::int64_t position) const {
      return place + static_cast<std::size_t>(std::min(position, num_steps - 1));
    }

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
                             .outcome = rewards_.rollout_outcome[r],
                             .process_size = 0});
        for (const double reward : rewards(rollouts_.back())) {
          rollouts_.back().process_size += std::abs(reward) + settings_.process_baseline;
        }
        place += static_cast<std::size_t>(size);
        longest_ = std::max(longest_, size);
      }
    }
    value_.resize(place);
    advantage_.resize(place);
    if (settings_.scope == Scope::state) {
      visits_.clear();
      for (const Rollout& rollout : rollouts_) {
        visits_.add_rollout(part(rewards_.step_state, rollout));
      }
    }
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
    if (scope == Scope::state) {
      compare_states(channel);
    } else {
      compare_positions(scope, channel);
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

  // Scope `per_index`: with the steps at the same position. Scope `pooled`: with where every
  // rollout stands there, also after its end.
  void compare_positions(Scope scope, const Channel& channel) {
    const bool every = scope == Scope::pooled;
    const double widest = largest_rounding(channel, 0);
    for (std::int64_t position = 0; position < longest_; ++position) {
      set_.clear();
      for (const Rollout& rollout : rollouts_) {
        if (every || position < rollout.num_steps) {
          set_.push_back(value_[rollout.at(position)]);
        }
      }
      relative(set_, every ? widest : largest_rounding(channel, position), channel.std_floor);
      auto member = set_.begin();
      for (const Rollout& rollout : rollouts_) {
        if (position < rollout.num_steps) {
          advantage_[rollout.at(position)] = *member;
        }
        if (every || position < rollout.num_steps) {
          ++member;
        }
      }
    }
    value_.swap(advantage_);
  }

  // Scope `state`: with what others got from the same state, shrunk towards where all others stand.
  void compare_states(const Channel& channel) {
    visits_.total(value_, settings_.state_shrinkage);
    const bool is_alone = rollouts_.size() < 2;
    const double share = is_alone ? 0 : 1 / (static_cast<double>(rollouts_.size()) - 1);
    const double pseudo = settings_.state_shrinkage;
    const double rounding = largest_rounding(channel, 0);
    const double factor = 1 / divisor(spread(value_), channel.std_floor);
    set_.assign(static_cast<std::size_t>(longest_), 0.0);  // where all rollouts stand, added up
    for (const Rollout& rollout : rollouts_) {
      for (std::int64_t position = 0; position < longest_; ++position) {
        set_[static_cast<std::size_t>(position)] += value_[rollout.at(position)];
      }
    }
    for (const Rollout& rollout : rollouts_) {
      std::size_t step = rollout.place;
      for (const double all : std::span(set_).first(static_cast<std::size_t>(rollout.num_steps))) {
        const double own = value_[step];
        const auto others = visits_.others(step, own);
        const double stand = pseudo * share * (all - own);
        const double deviation = own - (others.share * (others.total + stand));
        const bool is_nothing = is_alone || others.share == 0 || std::abs(deviation) <= rounding;
        advantage_[step++] = is_nothing ? 0 : deviation * factor;
      }
    }
    value_.swap(advantage_);
  }

  // Scope `value`: differences of the given value, and what each step's flaws cost.
  void credit_value(std::span<double> step_advantage) {
    const double w_p = settings_.process_weight;
    const double w_o = settings_.outcome_weight;
    const Channel outcomes{
        .process_weight = 0, .outcome_weight = 1, .std_floor = settings_.std_floor};
    set_.clear();
    for (const Rollout& rollout : rollouts_) {
      set_.push_back(rollout.outcome);
    }
    const double std = is_alike(set_, largest_rounding(outcomes, 0)) ? 0 : spread(set_);
    double factor = 1;
    if (settings_.std != Std::none) {
      const double divided_by = divisor(std, settings_.std_floor);
      factor = std::max(std, settings_.std_floor) == 0 ? 0 : 1 / divided_by;
    }
    const double carried = settings_.outcome_discount * settings_.gae_lambda;
    for (const Rollout& rollout : rollouts_) {
      const auto reward = rewards(rollout);
      const auto value = part(rewards_.step_value, rollout);
      const auto advantage = steps(rollout, step_advantage);
      double gained = 0;
      double paid = 0;
      double after = rollout.outcome;
      for (std::size_t s = reward.size(); s-- > 0;) {
        gained = (after - value[s]) + (carried * gained);
        paid = (reward[s] - settings_.process_baseline) + (settings_.process_discount * paid);
        after = settings_.outcome_discount * value[s];
        advantage[s] += settings_.step_weight * ((w_o * factor * gained) + (w_p * paid));
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

  template <typename Value>
  static std::span<const Value> part(std::span<const Value> step_value, const Rollout& rollout) {
    return step_value.subspan(static_cast<std::size_t>(rollout.first),
                              static_cast<std::size_t>(rollout.num_steps));
  }

  [[nodiscard]] std::span<const double> rewards(const Rollout& rollout) const {
    return part(rewards_.step_reward, rollout);
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
    if (is_alike(set, rounding)) {
      std::ranges::fill(set, 0.0);
      return;
    }
    const auto count = static_cast<double>(set.size());
    const double mean = mean_of(set);
    double factor = settings_.leave_one_out ? count / (count - 1) : 1;
    factor /= divisor(spread(set), std_floor);
    for (double& value : set) {
      value = (value - mean) * factor;
    }
  }

  // Whether there is nothing to compare: fewer than 2 values, or a spread within rounding.
  static bool is_alike(std::span<const double> set, double rounding) {
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    bool is_nan = false;
    for (const double value : set) {
      is_nan |= std::isnan(value);
      low = std::min(low, value);
      high = std::max(high, value);
    }
    return set.size() < 2 || (high - low <= rounding && !is_nan);
  }

  // The sum of a function of each value; in four parts, since one addition waits for another.
  template <typename Function>
  static double sum(std::span<const double> set, const Function& function) {
    std::array<double, 4> parts{};
    std::size_t i = 0;
    for (; i + parts.size() <= set.size(); i += parts.size()) {
      for (std::size_t part = 0; part < parts.size(); ++part) {
        parts[part] += function(set[i + part]);
      }
    }
    for (; i < set.size(); ++i) {
      parts[0] += function(set[i]);
    }
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }

  static double mean_of(std::span<const double> set) {
    return sum(set, [](double value) { return value; }) / static_cast<double>(set.size());
  }

  // The standard deviation; 0 for fewer than 2 values.
  [[nodiscard]] double spread(std::span<const double> set) const {
    const auto count = static_cast<double>(set.size());
    const double mean = mean_of(set);
    const double squares =
        sum(set, [mean](double value) { return (value - mean) * (value - mean); });
    const double freedom = settings_.std == Std::sample ? count - 1 : count;
    return set.size() < 2 ? 0 : std::sqrt(squares / freedom);
  }

  // What a comparison divides by.
  [[nodiscard]] double divisor(double std, double std_floor) const {
    return settings_.std == Std::none ? 1 : (std < std_floor ? std_floor : std) + settings_.epsilon;
  }

  GroupMap map_;
  Rewards rewards_;
  CreditSettings settings_;
  double epsilon_;
  std::vector<Rollout> rollouts_;
  std::int64_t longest_ = 0;
  std::vector<double> value_;
  std::vector<double> advantage_;  // what takes the place of `value_`
  std::vector<double> set_;
  StateVisits visits_;
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

#include "loss/loss_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "threads/parallel.h"

namespace finestep {
namespace {

constexpr double kNoBound = std::numeric_limits<double>::infinity();
constexpr std::int64_t kStepsPerChunk = 16;

struct Bounds {
  double low;
  double high;
};

// PPO clips on the side where that makes the objective smaller.
Bounds clip_bounds(double advantage, const LossSettings& settings) {
  const double low = 1 - settings.clip_low;
  const double high = 1 + settings.clip_high;
  if (settings.kind == LossKind::cispo) {
    return {.low = low, .high = high};
  }
  if (advantage > 0) {
    return {.low = -kNoBound, .high = high};
  }
  if (advantage < 0) {
    return {.low = low, .high = settings.dual_clip.value_or(kNoBound)};
  }
  return {.low = -kNoBound, .high = kNoBound};
}

// The sums over the tokens of one step that a shared ratio is made of.
struct StepSums {
  double log_ratio = 0;
  double token_weight = 0;
};

std::vector<StepSums> step_sums(const StepMap& map, const TokenInputs& tokens, int num_threads) {
  std::vector<StepSums> sums(map.step_start.size());
  const auto of_chunk = [&](std::int64_t chunk) {
    Tile tile;
    tile.token_weight.fill(1);
    const auto first = static_cast<std::size_t>(chunk * kStepsPerChunk);
    const std::size_t last = std::min(sums.size(), first + kStepsPerChunk);
    for (std::size_t s = first; s < last; ++s) {
      for (std::int64_t at = map.step_start[s]; at < map.step_end[s]; at += kTileTokens) {
        const std::int64_t count = std::min(kTileTokens, map.step_end[s] - at);
        widen(tokens.logp, at, count, tile.logp.data());
        widen(tokens.logp_old, at, count, tile.logp_old.data());
        if (tokens.token_weight.data != nullptr) {
          widen(tokens.token_weight, at, count, tile.token_weight.data());
        }
        add_log_ratios(tile, count, sums[s].log_ratio, sums[s].token_weight);
      }
    }
  };
  for_each_chunk(num_chunks(map.num_steps(), kStepsPerChunk), num_threads, of_chunk);
  return sums;
}

// Steps first .. last - 1, whose tokens share one ratio.
class Owner {
 public:
  Owner(std::size_t first, std::size_t last, std::span<const std::int64_t> policy_offset,
        std::span<const StepSums> sums)
      : first_(first), last_(last), policy_offset_(policy_offset), sums_(sums) {
    double log_ratio = 0;
    for (std::size_t s = first; s < last; ++s) {
      log_ratio += sums[s].log_ratio;
    }
    const auto num_tokens = static_cast<double>(policy_offset[last] - policy_offset[first]);
    ratio_ = std::exp(log_ratio / num_tokens);
    token_share_ = 1 / num_tokens;
  }

  void plan(std::span<const double> step_weight, std::span<const double> step_advantage,
            const LossSettings& settings, LossPlan& plan) const {
    double slope = 0;  // d loss / d log ratio of the owner
    const bool is_ppo = settings.kind == LossKind::ppo;
    const bool is_averaged = is_ppo && settings.ratio == RatioLevel::rollout_averaged;
    for (std::size_t s = first_; s < last_; ++s) {
      const auto bounds = clip_bounds(step_advantage[s], settings);
      const bool is_low = ratio_ < bounds.low;
      const bool is_high = ratio_ > bounds.high;
      const double raised = is_low ? bounds.low : ratio_;
      const double clipped = is_high ? bounds.high : raised;
      const double objective = step_weight[s] * step_advantage[s] * clipped;
      plan.step[s].coefficient = objective;
      if (is_ppo) {
        const bool is_clipped = is_low || is_high;
        const double term = -objective * sums_[s].token_weight;
        plan.sums.loss += term;
        slope += is_clipped ? 0.0 : term;
        plan.step[s].coefficient = is_clipped ? 0.0 : -objective;
      }
      count(static_cast<double>(policy_offset_[s + 1] - policy_offset_[s]), is_low, is_high,
            step_advantage[s] < 0 && is_ppo, plan.sums);
    }
    if (is_averaged) {
      for (std::size_t s = first_; s < last_; ++s) {
        plan.step[s].coefficient = slope * token_share_;
      }
    }
  }

 private:
  void count(double num_tokens, bool is_low, bool is_high, bool is_dual, TokenSums& sums) const {
    sums.ratio += num_tokens * ratio_;
    sums.ratio_squared += num_tokens * ratio_ * ratio_;
    sums.ratio_max = std::max(sums.ratio_max, ratio_);
    sums.clipped_low += is_low ? num_tokens : 0.0;
    (is_dual ? sums.clipped_dual : sums.clipped_high) += is_high ? num_tokens : 0.0;
  }

  std::size_t first_;
  std::size_t last_;
  std::span<const std::int64_t> policy_offset_;
  std::span<const StepSums> sums_;
  double ratio_ = 1;
  double token_share_ = 1;
};

}  // namespace

std::vector<double> aggregation_weights(const StepMap& map,
                                        std::span<const std::int64_t> policy_offset,
                                        const LossSettings& settings, std::optional<double> count) {
  const auto num_tokens = static_cast<double>(policy_offset.back());
  const auto num_rollouts = static_cast<double>(map.num_rollouts());
  const auto num_steps = static_cast<double>(map.num_steps());
  std::vector<double> weight(map.step_start.size());
  switch (settings.aggregation) {
    case Aggregation::token_mean:
      std::ranges::fill(weight, 1 / count.value_or(num_tokens));
      break;
    case Aggregation::rollout_mean:
      for (std::size_t r = 0; r + 1 < map.step_offsets.size(); ++r) {
        const auto first = static_cast<std::size_t>(map.step_offsets[r]);
        const auto last = static_cast<std::size_t>(map.step_offsets[r + 1]);
        const auto size = static_cast<double>(policy_offset[last] - policy_offset[first]);
        std::fill(weight.begin() + map.step_offsets[r], weight.begin() + map.step_offsets[r + 1],
                  1 / (size * count.value_or(num_rollouts)));
      }
      break;
    case Aggregation::step_mean:
      for (std::size_t s = 0; s < weight.size(); ++s) {
        const auto size = static_cast<double>(policy_offset[s + 1] - policy_offset[s]);
        weight[s] = 1 / (size * count.value_or(num_steps));
      }
      break;
    case Aggregation::constant:
      std::ranges::fill(weight,
                        1 / (count.value_or(num_rollouts) * settings.constant_tokens.value_or(1)));
      break;
  }
  return weight;
}

LossPlan token_ratio_plan(std::span<const double> step_weight,
                          std::span<const double> step_advantage, const LossSettings& settings) {
  LossPlan plan{.step = std::vector<StepTerms>(step_weight.size()), .sums = {}};
  for (std::size_t s = 0; s < step_weight.size(); ++s) {
    const auto [low, high] = clip_bounds(step_advantage[s], settings);
    plan.step[s] = {.coefficient = step_weight[s] * step_advantage[s],
                    .low = low,
                    .high = high,
                    .kl_weight = step_weight[s] * settings.kl_weight};
  }
  return plan;
}

LossPlan shared_ratio_plan(const StepMap& map, std::span<const std::int64_t> policy_offset,
                           const TokenInputs& tokens, std::span<const double> step_weight,
                           std::span<const double> step_advantage, const LossSettings& settings,
                           int num_threads) {
  const auto sums = step_sums(map, tokens, num_threads);
  LossPlan plan{.step = std::vector<StepTerms>(step_weight.size()), .sums = {}};
  const auto plan_owner = [&](std::size_t first, std::size_t last) {
    Owner(first, last, policy_offset, sums).plan(step_weight, step_advantage, settings, plan);
  };
  if (settings.ratio == RatioLevel::step) {
    for (std::size_t s = 0; s < step_weight.size(); ++s) {
      plan_owner(s, s + 1);
    }
  } else {
    for (std::size_t r = 0; r + 1 < map.step_offsets.size(); ++r) {
      plan_owner(static_cast<std::size_t>(map.step_offsets[r]),
                 static_cast<std::size_t>(map.step_offsets[r + 1]));
    }
  }
  for (std::size_t s = 0; s < step_weight.size(); ++s) {
    plan.step[s].kl_weight = step_weight[s] * settings.kl_weight;
  }
  return plan;
}

}  // namespace finestep

// The terms of each step that the policy loss works out before it reads tokens one by one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "credit/step_map.h"
#include "loss/loss_settings.h"
#include "loss/tile_math.h"

namespace finestep {

struct LossPlan {
  std::vector<StepTerms> step;  // [S]
  TokenSums sums;               // for shared ratios: all that does not depend on single tokens
};

// Aggregation weight of a token of each step: [S]. `count` as in policy_loss().
std::vector<double> aggregation_weights(const StepMap& map,
                                        std::span<const std::int64_t> policy_offset,
                                        const LossSettings& settings, std::optional<double> count);

// Plan for ratios of single tokens: coefficient = weight * advantage and the pessimistic bounds.
LossPlan token_ratio_plan(std::span<const double> step_weight,
                          std::span<const double> step_advantage, const LossSettings& settings);

// Plan for ratios that the tokens of a step or rollout share: coefficient = the gradient of a token
// of weight 1 (ppo), or of any token where it is averaged, or weight * advantage * clipped ratio
// (cispo). Reads all policy tokens once.
LossPlan shared_ratio_plan(const StepMap& map, std::span<const std::int64_t> policy_offset,
                           const TokenInputs& tokens, std::span<const double> step_weight,
                           std::span<const double> step_advantage, const LossSettings& settings,
                           int num_threads);

}  // namespace finestep

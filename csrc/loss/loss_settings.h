// The policy loss's arguments besides the token layout: choices, inputs, where gradients go.
#pragma once

#include <cstdint>
#include <optional>

#include "numbers/element.h"

namespace finestep {

// Named as in Python's LossConfig.
enum class LossKind : std::uint8_t { ppo, cispo };
enum class RatioLevel : std::uint8_t { token, step, rollout, rollout_averaged };
enum class Aggregation : std::uint8_t { token_mean, rollout_mean, step_mean, constant };
enum class KlEstimator : std::uint8_t { k1, k2, k3 };

struct LossSettings {
  LossKind kind = LossKind::ppo;
  RatioLevel ratio = RatioLevel::token;
  double clip_low = 0;
  double clip_high = 0;
  std::optional<double> dual_clip;
  Aggregation aggregation = Aggregation::token_mean;
  std::optional<double> constant_tokens;
  std::optional<KlEstimator> kl;
  double kl_weight = 0;
};

// [T] each; the last two may be absent. Only policy tokens are read.
struct TokenInputs {
  ConstElements logp;
  ConstElements logp_old;
  ConstElements logp_ref;
  ConstElements token_weight;
};

// Where d loss / d logp goes: nowhere, or [T], of which only policy tokens are written. With
// `clear_between` zeros are written to all other tokens, too; steps must then ascend on the axis.
struct GradientOutput {
  Elements elements;
  bool clear_between = false;
};

}  // namespace finestep

// The clipped policy loss of the tokens inside steps, its gradient and its metrics, in one pass.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "element.h"
#include "step_map.h"

namespace finestep {

// Choices by name; in the order in which Python numbers them.
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
  double constant_tokens = 1;
  std::optional<KlEstimator> kl;
  double kl_weight = 0;
  std::optional<double> count;  // what the aggregation divides by; else the batch's own
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

struct PolicyLoss {
  double loss = 0;
  // policy_tokens, clip_fraction_low, _high, _dual, approx_kl, ratio_mean, ratio_max,
  // effective_sample_size, reference_kl; then the mean advantage by position of the step.
  std::vector<double> metrics;
};

// The result is the same for any number of threads.
PolicyLoss policy_loss(const StepMap& map, const TokenInputs& tokens,
                       std::span<const double> step_advantage, const LossSettings& settings,
                       GradientOutput gradient, int num_threads);

}  // namespace finestep

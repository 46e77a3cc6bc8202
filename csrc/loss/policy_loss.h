// The clipped policy loss of the tokens inside steps, its gradient and its metrics, in one pass.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "credit/step_map.h"
#include "loss/loss_settings.h"

namespace finestep {

struct PolicyLoss {
  double loss = 0;
  // policy_tokens, clip_fraction_low, _high, _dual, approx_kl, ratio_mean, ratio_max,
  // effective_sample_size, reference_kl; then the mean advantage by position of the step.
  std::vector<double> metrics;
};

// `count` is what the aggregation divides by, else the batch's own number. The result is the same
// for any number of threads.
PolicyLoss policy_loss(const StepMap& map, const TokenInputs& tokens,
                       std::span<const double> step_advantage, const LossSettings& settings,
                       std::optional<double> count, GradientOutput gradient, int num_threads);

}  // namespace finestep

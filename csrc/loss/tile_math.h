// The arithmetic of the policy loss on a tile: a short run of policy tokens, side by side in
// float64.
#pragma once

#include <array>
#include <cstdint>

#include "credit/step_map.h"

namespace finestep {

// All columns of a tile together fit into the first-level cache.
inline constexpr std::int64_t kTileTokens = 256;
using Column = std::array<double, kTileTokens>;

// Not initialised: only the first `count` elements of a column that was filled are ever read.
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init)
struct Tile {
  alignas(64) Column logp;
  alignas(64) Column logp_old;
  alignas(64) Column logp_ref;
  alignas(64) Column token_weight;
  alignas(64) Column ratio;
  alignas(64) Column gradient;  // of the loss with respect to logp
  bool may_be_cut = false;      // some log ratio reaches the limit
};

// The terms that all tokens of a step share.
struct StepTerms {
  double coefficient = 0;  // see the functions
  double low = 0;          // the ratio is clipped below this
  double high = 0;         // and above this
  double kl_weight = 0;
};

// Sums over policy tokens.
struct TokenSums {
  double loss = 0;
  double approx_kl = 0;
  double ratio = 0;
  double ratio_squared = 0;
  double ratio_max = 0;
  double clipped_low = 0;   // by `low`
  double clipped_high = 0;  // by `high`, except
  double clipped_dual = 0;  // those where the advantage is negative (ppo only)
  double reference_kl = 0;

  void add(const TokenSums& other);
};

// Differences of log-probabilities are cut to plus and minus this before they are exponentiated.
inline constexpr double kLogRatioLimit = 20;

// ratio = exp(cut(logp - logp_old)), its sums, and whether any may have been cut.
void token_ratios(Tile& tile, std::int64_t count, TokenSums& sums);

// loss -= clip(ratio) * coefficient * token_weight, where `coefficient` is aggregation weight times
// advantage and [low, high] is the side on which the clip is pessimistic; no gradient where
// clipped.
void ppo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums);

// loss -= clip(ratio) * coefficient * token_weight * logp; the clipped ratio is a constant.
void cispo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums);

// gradient = coefficient * token_weight; the loss is known already.
void shared_ppo(Tile& tile, Run run, const StepTerms& step);

// gradient = coefficient: the same for all tokens, whatever they weigh.
void averaged_ppo(Tile& tile, Run run, const StepTerms& step);

// cispo where `coefficient` holds the clipped ratio already.
void shared_cispo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums);

// gradient = 0 where the log ratio lies outside the limit.
void drop_cut(Tile& tile, std::int64_t count);

// Adds kl_weight times an estimate of the distance to the reference, with d = cut(logp_ref - logp):
// -d, d^2 / 2, exp(d) - d - 1.
void add_k1(Tile& tile, Run run, const StepTerms& step, TokenSums& sums);
void add_k2(Tile& tile, Run run, const StepTerms& step, TokenSums& sums);
void add_k3(Tile& tile, Run run, const StepTerms& step, TokenSums& sums);

// Adds up the cut log ratios and the token weights.
void add_log_ratios(const Tile& tile, std::int64_t count, double& log_ratio, double& token_weight);

}  // namespace finestep

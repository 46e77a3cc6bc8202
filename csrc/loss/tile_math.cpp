#include "loss/tile_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "numbers/clones.h"
#include "numbers/exponential.h"

// Every loop below is plain enough for the compiler to vectorise. Comparisons are written so that a
// NaN is neither cut nor clipped: it passes on into the loss and the gradient.

namespace finestep {
namespace {

[[gnu::always_inline]] inline double cut(double log_ratio) {
  const double raised = log_ratio < -kLogRatioLimit ? -kLogRatioLimit : log_ratio;
  return raised > kLogRatioLimit ? kLogRatioLimit : raised;
}

[[gnu::always_inline]] inline bool outside(double log_ratio) {
  return std::abs(log_ratio) > kLogRatioLimit;
}

}  // namespace

void TokenSums::add(const TokenSums& other) {
  loss += other.loss;
  approx_kl += other.approx_kl;
  ratio += other.ratio;
  ratio_squared += other.ratio_squared;
  ratio_max = std::max(ratio_max, other.ratio_max);
  clipped_low += other.clipped_low;
  clipped_high += other.clipped_high;
  clipped_dual += other.clipped_dual;
  reference_kl += other.reference_kl;
}

FINESTEP_CLONES void token_ratios(Tile& tile, std::int64_t count, TokenSums& sums) {
  const double* logp = tile.logp.data();
  const double* logp_old = tile.logp_old.data();
  double* ratios = tile.ratio.data();
  double log_ratio_sum = 0;
  double ratio_sum = 0;
  double squared = 0;
  // Ratios are positive: they are ordered as their bits are.
  std::int64_t max_bits = 0;
  std::int64_t min_bits = std::numeric_limits<std::int64_t>::max();
#pragma omp simd reduction(+ : log_ratio_sum, ratio_sum, squared) reduction(max : max_bits) \
    reduction(min : min_bits)
  for (std::int64_t i = 0; i < count; ++i) {
    const double x = cut(logp[i] - logp_old[i]);
    const double ratio = exponential(x, kExactExponential);
    ratios[i] = ratio;
    log_ratio_sum += x;
    ratio_sum += ratio;
    squared += ratio * ratio;
    const auto bits = std::bit_cast<std::int64_t>(ratio);
    max_bits = bits > max_bits ? bits : max_bits;
    min_bits = bits < min_bits ? bits : min_bits;
  }
  const auto ratio_max = std::bit_cast<double>(max_bits);
  const auto ratio_min = std::bit_cast<double>(min_bits);
  sums.approx_kl += (ratio_sum - static_cast<double>(count)) - log_ratio_sum;
  sums.ratio += ratio_sum;
  sums.ratio_squared += squared;
  sums.ratio_max = std::max(sums.ratio_max, ratio_max);
  tile.may_be_cut = ratio_max >= exponential(kLogRatioLimit, kExactExponential) ||
                    ratio_min <= exponential(-kLogRatioLimit, kExactExponential);
}

FINESTEP_CLONES void ppo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const double* ratio = tile.ratio.data() + run.place;
  const double* token_weight = tile.token_weight.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double coefficient = -step.coefficient;
  const double low = step.low;
  const double high = step.high;
  double loss = 0;
  double clipped_low = 0;
  double clipped_high = 0;
#pragma omp simd reduction(+ : loss, clipped_low, clipped_high)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const bool is_low = ratio[i] < low;
    const bool is_high = ratio[i] > high;
    const double raised = is_low ? low : ratio[i];
    const double clipped = is_high ? high : raised;
    const double term = clipped * coefficient * token_weight[i];
    loss += term;
    const bool is_clipped = is_low || is_high;
    gradient[i] = is_clipped ? 0.0 : term;
    clipped_low += is_low ? 1.0 : 0.0;
    clipped_high += is_high ? 1.0 : 0.0;
  }
  sums.loss += loss;
  sums.clipped_low += clipped_low;
  (step.coefficient < 0 ? sums.clipped_dual : sums.clipped_high) += clipped_high;
}

FINESTEP_CLONES void cispo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const double* logp = tile.logp.data() + run.place;
  const double* ratio = tile.ratio.data() + run.place;
  const double* token_weight = tile.token_weight.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double coefficient = -step.coefficient;
  const double low = step.low;
  const double high = step.high;
  double loss = 0;
  double clipped_low = 0;
  double clipped_high = 0;
#pragma omp simd reduction(+ : loss, clipped_low, clipped_high)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const bool is_low = ratio[i] < low;
    const bool is_high = ratio[i] > high;
    const double raised = is_low ? low : ratio[i];
    const double clipped = is_high ? high : raised;
    const double slope = clipped * coefficient * token_weight[i];
    loss += slope * logp[i];
    gradient[i] = slope;
    clipped_low += is_low ? 1.0 : 0.0;
    clipped_high += is_high ? 1.0 : 0.0;
  }
  sums.loss += loss;
  sums.clipped_low += clipped_low;
  sums.clipped_high += clipped_high;
}

FINESTEP_CLONES void shared_ppo(Tile& tile, Run run, const StepTerms& step) {
  const double* token_weight = tile.token_weight.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double coefficient = step.coefficient;
#pragma omp simd
  for (std::int64_t i = 0; i < run.count; ++i) {
    gradient[i] = coefficient * token_weight[i];
  }
}

void averaged_ppo(Tile& tile, Run run, const StepTerms& step) {
  std::fill_n(tile.gradient.data() + run.place, run.count, step.coefficient);
}

FINESTEP_CLONES void shared_cispo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const double* logp = tile.logp.data() + run.place;
  const double* token_weight = tile.token_weight.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double coefficient = step.coefficient;
  double loss = 0;
#pragma omp simd reduction(+ : loss)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const double slope = -coefficient * token_weight[i];
    loss += slope * logp[i];
    gradient[i] = slope;
  }
  sums.loss += loss;
}

void drop_cut(Tile& tile, std::int64_t count) {
  const double* logp = tile.logp.data();
  const double* logp_old = tile.logp_old.data();
  double* gradient = tile.gradient.data();
  for (std::int64_t i = 0; i < count; ++i) {
    gradient[i] = outside(logp[i] - logp_old[i]) ? 0.0 : gradient[i];
  }
}

FINESTEP_CLONES void add_k1(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const double* logp = tile.logp.data() + run.place;
  const double* logp_ref = tile.logp_ref.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double kl_weight = step.kl_weight;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const double apart = logp_ref[i] - logp[i];
    const double d = cut(apart);
    sum -= d;
    gradient[i] += outside(apart) ? 0.0 : kl_weight + (0.0 * d);  // or NaN
  }
  sums.loss += kl_weight * sum;
  sums.reference_kl += sum;
}

FINESTEP_CLONES void add_k2(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const double* logp = tile.logp.data() + run.place;
  const double* logp_ref = tile.logp_ref.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double kl_weight = step.kl_weight;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const double apart = logp_ref[i] - logp[i];
    const double d = cut(apart);
    sum += d * d / 2;
    gradient[i] -= outside(apart) ? 0.0 : kl_weight * d;
  }
  sums.loss += kl_weight * sum;
  sums.reference_kl += sum;
}

FINESTEP_CLONES void add_k3(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const double* logp = tile.logp.data() + run.place;
  const double* logp_ref = tile.logp_ref.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double kl_weight = step.kl_weight;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const double apart = logp_ref[i] - logp[i];
    const double d = cut(apart);
    const double slope = exponential(d, kExactExponential) - 1;
    sum += slope - d;
    gradient[i] -= outside(apart) ? 0.0 : kl_weight * slope;
  }
  sums.loss += kl_weight * sum;
  sums.reference_kl += sum;
}

FINESTEP_CLONES void add_log_ratios(const Tile& tile, std::int64_t count, double& log_ratio,
                                    double& token_weight) {
  const double* logp = tile.logp.data();
  const double* logp_old = tile.logp_old.data();
  const double* weight = tile.token_weight.data();
  double log_ratios = 0;
  double weights = 0;
#pragma omp simd reduction(+ : log_ratios, weights)
  for (std::int64_t i = 0; i < count; ++i) {
    log_ratios += cut(logp[i] - logp_old[i]);
    weights += weight[i];
  }
  log_ratio += log_ratios;
  token_weight += weights;
}

}  // namespace finestep

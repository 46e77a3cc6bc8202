#include "tile_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "clones.h"

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

// exp(x) for |x| <= 20, within 4e-15 of its value; exactly 1 at 0.
// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by the polynomial of degree 10 with the smallest
// relative error (2.1e-16); 2^n by its bits.
[[gnu::always_inline]] inline double exponential(double x) {
  constexpr double kRoundToInteger = 0x1.8p52;  // adding it leaves n in the low bits
  const double shifted = x * std::numbers::log2e + kRoundToInteger;
  const double r = x - (shifted - kRoundToInteger) * std::numbers::ln2;
  double p = 0x1.27279ed1bbf13p-22;
  p = p * r + 0x1.72f993b7af18cp-19;
  p = p * r + 0x1.a01b6d08ba15ap-16;
  p = p * r + 0x1.a0197a40d0e11p-13;
  p = p * r + 0x1.6c16c0c092728p-10;
  p = p * r + 0x1.1111112d4dc76p-7;
  p = p * r + 0x1.555555559348dp-5;
  p = p * r + 0x1.555555554bbeap-3;
  p = p * r + 0x1.ffffffffffe17p-2;
  p = p * r + 0x1.000000000001dp+0;
  p = p * r + 1.0;
  const std::uint64_t exponent = std::bit_cast<std::uint64_t>(shifted) + 1023U;
  return p * std::bit_cast<double>(exponent << 52U);
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
    const double ratio = exponential(x);
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
  tile.may_be_cut =
      ratio_max >= exponential(kLogRatioLimit) || ratio_min <= exponential(-kLogRatioLimit);
}

namespace {

// PPO where only the bounds that are there are looked at.
template <bool kHasLow, bool kHasHigh>
[[gnu::always_inline]] inline void ppo_within(Tile& tile, Run run, const StepTerms& step,
                                              TokenSums& sums) {
  const double* ratio = tile.ratio.data() + run.place;
  const double* token_weight = tile.token_weight.data() + run.place;
  double* gradient = tile.gradient.data() + run.place;
  const double coefficient = -step.coefficient;
  double loss = 0;
  double clipped_low = 0;
  double clipped_high = 0;
#pragma omp simd reduction(+ : loss, clipped_low, clipped_high)
  for (std::int64_t i = 0; i < run.count; ++i) {
    const bool is_low = kHasLow && ratio[i] < step.low;
    const bool is_high = kHasHigh && ratio[i] > step.high;
    const double raised = is_low ? step.low : ratio[i];
    const double clipped = is_high ? step.high : raised;
    const double term = clipped * coefficient * token_weight[i];
    loss += term;
    gradient[i] = (is_low | is_high) ? 0.0 : term;
    clipped_low += is_low ? 1.0 : 0.0;
    clipped_high += is_high ? 1.0 : 0.0;
  }
  sums.loss += loss;
  sums.clipped_low += clipped_low;
  (step.coefficient < 0 ? sums.clipped_dual : sums.clipped_high) += clipped_high;
}

}  // namespace

FINESTEP_CLONES void ppo(Tile& tile, Run run, const StepTerms& step, TokenSums& sums) {
  const bool has_low = !std::isinf(step.low);
  const bool has_high = !std::isinf(step.high);
  if (has_low && has_high) {
    ppo_within<true, true>(tile, run, step, sums);
  } else if (has_low) {
    ppo_within<true, false>(tile, run, step, sums);
  } else if (has_high) {
    ppo_within<false, true>(tile, run, step, sums);
  } else {
    ppo_within<false, false>(tile, run, step, sums);
  }
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

void shared_ppo(Tile& tile, Run run, const StepTerms& step) {
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
    gradient[i] += outside(apart) ? 0.0 : kl_weight;
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
    const double slope = exponential(d) - 1;
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

#include "loss/token_ppo.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "numbers/clones.h"
#include "numbers/exponential.h"
#include "numbers/half.h"

namespace finestep {
namespace {

// float64 is computed to its own precision; the others are shorter, and so is the polynomial.
template <typename Element>
[[gnu::always_inline]] inline double ratio_of(double log_ratio) {
  if constexpr (std::is_same_v<Element, double>) {
    return exponential(log_ratio, kExactExponential);
  } else {
    return exponential(log_ratio, kSingleExponential);
  }
}

// Only bounds that exist are compared with. Nothing is cut, because a cut in this loop costs a
// third of its time: the extremes show afterwards whether a cut was needed. Comparisons are
// written so that a NaN is neither clipped nor an extreme: it passes on into loss and gradient.
template <bool kHasLow, bool kHasHigh, bool kIsWeighted, typename Element>
[[gnu::always_inline]] inline bool within(const PpoRun& run, const StepTerms& step,
                                          TokenSums& sums) {
  using Gradient = RealOf<Element>;
  const auto* logp = static_cast<const Element*>(run.logp.data);
  const auto* logp_old = static_cast<const Element*>(run.logp_old.data);
  const auto* token_weight = static_cast<const Element*>(run.token_weight.data);
  auto* gradient = static_cast<Gradient*>(run.gradient.data);
  const std::int64_t count = run.count;
  const double coefficient = -step.coefficient;
  const double low = step.low;
  const double high = step.high;
  double loss = 0;
  double log_ratio_sum = 0;
  double ratio_sum = 0;
  double squared = 0;
  double clipped_low = 0;
  double clipped_high = 0;
  double largest = -kLogRatioLimit;
  double smallest = kLogRatioLimit;
#pragma omp simd reduction(+ : loss, log_ratio_sum, ratio_sum, squared, clipped_low, clipped_high) \
    reduction(max : largest) reduction(min : smallest)
  for (std::int64_t i = 0; i < count; ++i) {
    const double log_ratio =
        static_cast<double>(widened(logp[i])) - static_cast<double>(widened(logp_old[i]));
    largest = log_ratio > largest ? log_ratio : largest;
    smallest = log_ratio < smallest ? log_ratio : smallest;
    const double ratio = ratio_of<Element>(log_ratio);
    log_ratio_sum += log_ratio;
    ratio_sum += ratio;
    squared += ratio * ratio;
    const bool is_low = kHasLow && ratio < low;
    const bool is_high = kHasHigh && ratio > high;
    const double raised = is_low ? low : ratio;
    const double clipped = is_high ? high : raised;
    const double weight = kIsWeighted ? static_cast<double>(widened(token_weight[i])) : 1.0;
    const double term = clipped * coefficient * weight;
    loss += term;
    gradient[i] = static_cast<Gradient>(is_low || is_high ? 0.0 : term);
    clipped_low += is_low ? 1.0 : 0.0;
    clipped_high += is_high ? 1.0 : 0.0;
  }
  if (largest > kLogRatioLimit || smallest < -kLogRatioLimit) {
    return false;
  }
  sums.loss += loss;
  sums.approx_kl += (ratio_sum - static_cast<double>(count)) - log_ratio_sum;
  sums.ratio += ratio_sum;
  sums.ratio_squared += squared;
  sums.ratio_max = std::max(sums.ratio_max, ratio_of<Element>(largest));
  sums.clipped_low += clipped_low;
  (step.coefficient < 0 ? sums.clipped_dual : sums.clipped_high) += clipped_high;
  return true;
}

template <typename Element>
[[gnu::always_inline]] inline bool of_elements(const PpoRun& run, const StepTerms& step,
                                               TokenSums& sums) {
  if (run.token_weight.data != nullptr) {
    return within<true, true, true, Element>(run, step, sums);
  }
  if (std::isinf(step.low)) {
    return within<false, true, false, Element>(run, step, sums);
  }
  if (std::isinf(step.high)) {
    return within<true, false, false, Element>(run, step, sums);
  }
  return within<true, true, false, Element>(run, step, sums);
}

FINESTEP_CLONES bool of_float32(const PpoRun& run, const StepTerms& step, TokenSums& sums) {
  return of_elements<float>(run, step, sums);
}

FINESTEP_CLONES bool of_float64(const PpoRun& run, const StepTerms& step, TokenSums& sums) {
  return of_elements<double>(run, step, sums);
}

FINESTEP_CLONES bool of_bfloat16(const PpoRun& run, const StepTerms& step, TokenSums& sums) {
  return of_elements<Bfloat16>(run, step, sums);
}

FINESTEP_CLONES bool of_float16(const PpoRun& run, const StepTerms& step, TokenSums& sums) {
  return of_elements<Float16>(run, step, sums);
}

}  // namespace

bool token_ppo(const PpoRun& run, const StepTerms& step, TokenSums& sums) {
  switch (run.logp.dtype) {
    case Dtype::float32:
      return of_float32(run, step, sums);
    case Dtype::float64:
      return of_float64(run, step, sums);
    case Dtype::bfloat16:
      return of_bfloat16(run, step, sums);
    case Dtype::float16:
      return of_float16(run, step, sums);
  }
  return false;
}

}  // namespace finestep

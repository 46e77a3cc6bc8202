// The default loss of one run of tokens in one loop: from memory to the gradient in memory.
#pragma once

#include <cstdint>

#include "loss/tile_math.h"
#include "numbers/element.h"

namespace finestep {

// logp, logp_old and, unless its data is null, token_weight have one dtype, and the gradient that
// dtype, or float32 where it has 16 bits. Each is offset to where the run begins.
struct PpoRun {
  ConstElements logp;
  ConstElements logp_old;
  ConstElements token_weight;
  Elements gradient;
  std::int64_t count = 0;
};

// What `token_ratios` and `ppo` do, for tokens in memory. Returns whether it succeeded: where a log
// ratio lies outside the limit nothing is added to the sums, and the gradient must not be used.
[[nodiscard]] bool token_ppo(const PpoRun& run, const StepTerms& step, TokenSums& sums);

}  // namespace finestep

// Scales the gradient that the policy loss wrote.
#pragma once

#include "credit/step_map.h"
#include "numbers/element.h"

namespace finestep {

// gradient[t] *= scale for the tokens inside steps; the others are neither read nor written, and
// nothing is where `scale` is 1. `gradient` is [T].
void scale_gradient(const StepMap& map, Elements gradient, double scale, int num_threads);

}  // namespace finestep

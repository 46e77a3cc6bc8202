// Gives every token the value of its step.
#pragma once

#include <span>

#include "credit/step_map.h"
#include "numbers/element.h"

namespace finestep {

// to[t] = step_value[s] for the tokens t of step s, 0 outside steps. `step_value` is [S], `to` [T].
// Where steps ascend on the token axis every element is written once.
void token_values(const StepMap& map, std::span<const double> step_value, Elements to,
                  int num_threads);

}  // namespace finestep

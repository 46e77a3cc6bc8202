// The part of the Python face that goes from rows of logits to log-probabilities and back.
#pragma once

#include <pybind11/pybind11.h>

namespace finestep {

// Adds what reads rows of logits, and what writes their gradients, to the compiled module.
void bind_logits_rows(pybind11::module_& module);

}  // namespace finestep

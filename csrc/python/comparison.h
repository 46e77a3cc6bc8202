// The part of the Python face that compares results.
#pragma once

#include <pybind11/pybind11.h>

namespace finestep {

// Adds the comparison of Python rows to the compiled module.
void bind_comparison(pybind11::module_& module);

}  // namespace finestep

// The part of the Python face that runs queries.
#pragma once

#include <pybind11/pybind11.h>

namespace finestep {

// Adds the opening of a SQLite library, and engines on it, to the compiled module.
void bind_sql_runner(pybind11::module_& module);

}  // namespace finestep

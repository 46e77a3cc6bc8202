// The parts of the compiled module, each in a file of its own.
#pragma once

#include <pybind11/pybind11.h>

namespace finestep {

// Adds the settings of credit and loss, and the names of their choices.
void bind_settings(pybind11::module_& module);

// Adds the way from masks to steps, advantages and losses. After bind_settings.
void bind_losses(pybind11::module_& module);

// Adds what reads rows of logits, and what writes their gradients.
void bind_logit_rows(pybind11::module_& module);

// Adds the comparison of Python rows.
void bind_comparison(pybind11::module_& module);

// Adds the opening of a SQLite library, and what reads queries or a database without an engine.
void bind_sqlite(pybind11::module_& module);

// Adds the engine that runs and compares queries. After bind_comparison and bind_sqlite.
void bind_engine(pybind11::module_& module);
void bind_workers(pybind11::module_& module);

}  // namespace finestep

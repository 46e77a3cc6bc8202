// Rows as DB-API gives them, read straight from Python's objects.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "compare/comparison.h"

namespace finestep {

// Why rows cannot be read, and where.
struct RowFault {
  enum class What : std::uint8_t { rows_type, row_type, value_type, wide_integer, nan, width };
  What what = What::rows_type;
  Py_ssize_t row = 0;
  Py_ssize_t column = 0;
};

// Adds the rows of a list or tuple of lists or tuples. Runs no Python code and counts no reference,
// so while one thread holds the GIL and waits, others may read for it, too.
std::optional<RowFault> read_rows(PyObject* rows, Comparand& comparand);

// The same rows as a list of tuples, for what is none; raises TypeError or ValueError.
pybind11::list plain_rows(const pybind11::handle& rows, const std::string& name);

// Raises ValueError that names the value at fault and the rule.
[[noreturn]] void raise_fault(const RowFault& fault, const pybind11::handle& rows,
                              const std::string& name);

}  // namespace finestep

// Text and values on their way between SQLite and Python.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <string>
#include <string_view>

#include "sql/stored_rows.h"

namespace finestep {

using PyValue = pybind11::typing::Union<pybind11::int_, pybind11::float_, pybind11::str,
                                        pybind11::bytes, pybind11::none>;
using PyRows = pybind11::typing::Tuple<pybind11::typing::Tuple<PyValue, pybind11::ellipsis>,
                                       pybind11::ellipsis>;

// A new reference that a function of Python's made; throws Python's error if it made none.
pybind11::object checked(PyObject* made);

// The text in UTF-8; a lone surrogate as its three bytes, which SQLite later reports as no UTF-8.
std::string utf8_of(const pybind11::handle& text);

// The text as Python's, bytes that are no UTF-8 as lone surrogates.
pybind11::object decoded(std::string_view text);
// The same; `is_invalid` is set where there were such bytes.
pybind11::object decoded(std::string_view text, bool& is_invalid);

// Stored rows as tuples; `is_invalid` is set where some text is no UTF-8.
pybind11::tuple rows_of(std::string_view bytes, std::size_t num_rows, std::size_t num_columns,
                        bool& is_invalid);

}  // namespace finestep

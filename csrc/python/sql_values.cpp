#include "python/sql_values.h"

#include <utility>

namespace py = pybind11;

namespace finestep {
namespace {

py::object value_of(const Cell& cell, bool& is_invalid) {
  switch (cell.kind) {
    case CellKind::integer:
      return checked(PyLong_FromLongLong(cell.integer));
    case CellKind::real:
      return checked(PyFloat_FromDouble(cell.real));
    case CellKind::text:
      return decoded(cell.bytes, is_invalid);
    case CellKind::blob:
      return checked(
          PyBytes_FromStringAndSize(cell.bytes.data(), static_cast<Py_ssize_t>(cell.bytes.size())));
    default:
      return py::none();
  }
}

}  // namespace

py::object checked(PyObject* made) {
  if (made == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(made);
}

std::string utf8_of(const py::handle& text) {
  Py_ssize_t size = 0;
  if (const char* const data = PyUnicode_AsUTF8AndSize(text.ptr(), &size)) {
    return {data, static_cast<std::size_t>(size)};
  }
  PyErr_Clear();
  const auto bytes = checked(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass"));
  return py::cast<std::string>(bytes);
}

py::object decoded(std::string_view text, bool& is_invalid) {
  PyObject* const made =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
  if (made != nullptr) {
    return py::reinterpret_steal<py::object>(made);
  }
  if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError) == 0) {
    throw py::error_already_set();
  }
  PyErr_Clear();
  is_invalid = true;
  return checked(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape"));
}

py::object decoded(std::string_view text) {
  bool is_invalid = false;
  return decoded(text, is_invalid);
}

py::tuple rows_of(std::string_view bytes, std::size_t num_rows, std::size_t num_columns,
                  bool& is_invalid) {
  StoredCells cells(bytes);
  py::tuple rows(num_rows);
  for (std::size_t r = 0; r < num_rows; ++r) {
    py::tuple row(num_columns);
    for (std::size_t c = 0; c < num_columns; ++c) {
      row[c] = value_of(cells.next(), is_invalid);
    }
    rows[r] = std::move(row);
  }
  return rows;
}

}  // namespace finestep

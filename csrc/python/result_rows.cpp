#include "python/result_rows.h"

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace py = pybind11;

namespace finestep {
namespace {

constexpr std::size_t kShownChars = 80;

// The items of a list or tuple; none of anything else.
std::optional<std::span<PyObject* const>> items_of(PyObject* object) {
  if (PyList_Check(object) != 0 || PyTuple_Check(object) != 0) {
    return std::span(PySequence_Fast_ITEMS(object),
                     static_cast<std::size_t>(PySequence_Fast_GET_SIZE(object)));
  }
  return std::nullopt;
}

void append_utf8(std::string& text, Py_UCS4 c) {
  const auto tail = [c](unsigned shift) { return static_cast<char>(0x80U | ((c >> shift) & 63U)); };
  if (c < 0x80) {
    text.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    text.append({static_cast<char>(0xc0U | (c >> 6U)), tail(0)});
  } else if (c < 0x10000) {
    text.append({static_cast<char>(0xe0U | (c >> 12U)), tail(6), tail(0)});
  } else {
    text.append({static_cast<char>(0xf0U | (c >> 18U)), tail(12), tail(6), tail(0)});
  }
}

// The text in UTF-8, a lone surrogate as the three bytes of its code point: then texts are equal
// and ordered as in Python. Only text beyond ASCII is copied, to `scratch`; Python's own encoder
// would keep its copy in the object.
std::string_view utf8_of(PyObject* text, std::string& scratch) {
  const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(text));
  if (PyUnicode_IS_ASCII(text) != 0) {
    return {static_cast<const char*>(PyUnicode_DATA(text)), size};
  }
  scratch.clear();
  const auto kind = PyUnicode_KIND(text);
  const void* data = PyUnicode_DATA(text);
  for (std::size_t at = 0; at < size; ++at) {
    append_utf8(scratch, PyUnicode_READ(kind, data, static_cast<Py_ssize_t>(at)));
  }
  return scratch;
}

// The value as a cell; what is wrong with it otherwise.
std::optional<RowFault::What> read_value(PyObject* value, Cell& cell, std::string& scratch) {
  if (value == Py_None) {
    cell.kind = CellKind::null;
    return std::nullopt;
  }
  if (PyLong_Check(value) != 0) {
    int overflow = 0;
    cell.kind = CellKind::integer;
    cell.integer = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow == 0 ? std::nullopt : std::optional(RowFault::What::wide_integer);
  }
  if (PyUnicode_Check(value) != 0) {
    cell.kind = CellKind::text;
    cell.bytes = utf8_of(value, scratch);
    return std::nullopt;
  }
  if (PyFloat_Check(value) != 0) {
    cell.kind = CellKind::real;
    cell.real = PyFloat_AS_DOUBLE(value);
    return std::isnan(cell.real) ? std::optional(RowFault::What::nan) : std::nullopt;
  }
  if (PyBytes_Check(value) != 0) {
    cell.kind = CellKind::blob;
    cell.bytes = {PyBytes_AS_STRING(value), static_cast<std::size_t>(PyBytes_GET_SIZE(value))};
    return std::nullopt;
  }
  return RowFault::What::value_type;
}

// How a value is written, if it lets itself be written, and not at length.
std::string shown(const py::handle& value) {
  PyObject* text = PyObject_Repr(value.ptr());
  if (text == nullptr) {
    PyErr_Clear();
    return std::string("an object of type ") + Py_TYPE(value.ptr())->tp_name;
  }
  std::string utf8;
  const auto owner = py::reinterpret_steal<py::object>(text);
  std::string scratch;
  utf8 = utf8_of(text, scratch);
  if (utf8.size() > kShownChars) {
    utf8.resize(kShownChars);
    utf8 += "...";
  }
  return utf8;
}

[[noreturn]] void raise(const std::string& message) {
  const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
      message.data(), static_cast<Py_ssize_t>(message.size()), "backslashreplace"));
  PyErr_SetObject(PyExc_ValueError, text.ptr());
  throw py::error_already_set();
}

}  // namespace

std::optional<RowFault> read_rows(PyObject* rows, Comparand& comparand) {
  const auto listed = items_of(rows);
  if (!listed) {
    return RowFault{.what = RowFault::What::rows_type};
  }
  std::vector<Cell> cells;
  std::vector<std::string> texts;
  for (std::size_t row = 0; row < listed->size(); ++row) {
    const auto values = items_of((*listed)[row]);
    const auto place = static_cast<Py_ssize_t>(row);
    if (!values) {
      return RowFault{.what = RowFault::What::row_type, .row = place};
    }
    cells.resize(values->size());
    texts.resize(values->size());
    for (std::size_t column = 0; column < values->size(); ++column) {
      if (const auto what = read_value((*values)[column], cells[column], texts[column])) {
        return RowFault{.what = *what, .row = place, .column = static_cast<Py_ssize_t>(column)};
      }
    }
    try {
      comparand.add_row(cells);
    } catch (const std::invalid_argument&) {
      return RowFault{.what = RowFault::What::width, .row = place};
    }
  }
  return std::nullopt;
}

py::list plain_rows(const py::handle& rows, const std::string& name) {
  py::list plain;
  for (const py::handle row : rows) {
    const auto values = PyUnicode_Check(row.ptr()) != 0 || PyBytes_Check(row.ptr()) != 0
                            ? py::object()
                            : py::reinterpret_steal<py::object>(PySequence_Tuple(row.ptr()));
    if (!values) {
      PyErr_Clear();
      raise(name + "[" + std::to_string(plain.size()) + "] is " + shown(row) +
            "; expected a row: a list or tuple of values");
    }
    plain.append(values);
  }
  return plain;
}

void raise_fault(const RowFault& fault, const py::handle& rows, const std::string& name) {
  std::string place = name;
  py::object item = py::reinterpret_borrow<py::object>(rows);
  if (fault.what != RowFault::What::rows_type) {
    place += "[" + std::to_string(fault.row) + "]";
    item = item[py::int_(fault.row)];
  }
  if (fault.what == RowFault::What::width) {
    raise(place + " has " + std::to_string(py::len(item)) +
          " values; expected as many as the row before it has");
  }
  if (fault.what >= RowFault::What::value_type) {
    place += "[" + std::to_string(fault.column) + "]";
    item = item[py::int_(fault.column)];
  }
  const std::string what = place + " is " + shown(item) + "; expected ";
  switch (fault.what) {
    case RowFault::What::wide_integer:
      raise(what + "an integer of 64 bits, as SQLite has them");
    case RowFault::What::nan:
      raise(what + "a number: SQLite has no NaN, it gives NULL");
    case RowFault::What::value_type:
      raise(what + "an int, float, str, bytes or None");
    default:
      raise(what + "a list or tuple");
  }
}

}  // namespace finestep

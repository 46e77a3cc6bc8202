// The Python face of the core: views in, GIL released, core called, result out. Only this file
// knows Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "step_spans.h"

namespace py = pybind11;

namespace {

using Positions = py::array_t<std::int64_t>;

// Hands a vector's memory to numpy without a copy.
Positions as_array(std::vector<std::int64_t>&& values) {
  auto owner = std::make_unique<std::vector<std::int64_t>>(std::move(values));
  auto* data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  const py::capsule capsule(owner.get(),
                            [](void* p) { delete static_cast<std::vector<std::int64_t>*>(p); });
  static_cast<void>(owner.release());  // the capsule deletes it
  return Positions(size, data, capsule);
}

template <typename Byte>
py::typing::Tuple<Positions, Positions, Positions> step_spans(
    const py::array_t<Byte, py::array::c_style>& mask) {
  static_assert(sizeof(Byte) == 1);
  if (mask.ndim() != 2) {
    throw std::invalid_argument("mask must have 2 dimensions, [R, L]");
  }
  const std::span<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(mask.data()),
                                            static_cast<std::size_t>(mask.size()));
  const auto num_rows = static_cast<std::size_t>(mask.shape(0));
  const auto row_length = static_cast<std::size_t>(mask.shape(1));
  finestep::StepSpans spans;
  {
    const py::gil_scoped_release release;
    spans = finestep::step_spans(bytes, num_rows, row_length);
  }
  return py::make_tuple(as_array(std::move(spans.start)), as_array(std::move(spans.end)),
                        as_array(std::move(spans.offsets)));
}

constexpr auto kStepSpansDoc =
    "Return the runs of True of each row as flat half-open spans: (start [S], end [S], offsets "
    "[R+1]). `mask` is [R, L], C-contiguous.";

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled CPU core of finestep_fast. Doors to it: StepBatch.";
  m.def("step_spans", &step_spans<bool>, py::arg("mask").noconvert(), kStepSpansDoc);
  m.def("step_spans", &step_spans<std::uint8_t>, py::arg("mask").noconvert(), kStepSpansDoc);
}

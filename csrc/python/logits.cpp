#include <pybind11/stl.h>

#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <tuple>

#include "loss/logits_rows.h"
#include "python/bindings.h"
#include "python/gil.h"
#include "python/tensor.h"

namespace py = pybind11;

namespace finestep {
namespace {

// (logits, row, target, temperature)
using Rows = std::tuple<Memory, Memory, Memory, Memory>;
// (logp, entropy, maximum, total)
using Sums = std::tuple<Memory, Memory, Memory, Memory>;
constexpr int kFloat64 = 1;

std::span<double> doubles(const Memory& memory, std::int64_t size) {
  require(memory.dtype == kFloat64 && memory.size == size, "a number for each row is not float64");
  return {static_cast<double*>(memory.address), static_cast<std::size_t>(size)};
}

LogitRows logit_rows(const Rows& rows, std::int64_t vocabulary) {
  const auto& [logits, row, target, temperature] = rows;
  require(vocabulary > 0 && logits.size % vocabulary == 0, "logits must be [rows, V]");
  const LogitRows made{.logits = output(logits, logits.size),
                       .num_rows = logits.size / vocabulary,
                       .vocabulary = vocabulary,
                       .row = positions(row),
                       .target = positions(target),
                       .temperature = doubles(temperature, row.size)};
  check_rows(made);
  return made;
}

RowSums row_sums(const Sums& sums, std::int64_t size) {
  const auto& [logp, entropy, maximum, total] = sums;
  return {.logp = doubles(logp, size),
          .entropy = doubles(entropy, size),
          .maximum = doubles(maximum, size),
          .total = doubles(total, size)};
}

void read_logit_rows(const Rows& rows, std::int64_t vocabulary, const Sums& out, int num_threads) {
  const auto from = logit_rows(rows, vocabulary);
  read_rows(from, row_sums(out, std::ssize(from.row)), num_threads);
}

void write_logit_gradients(const Rows& rows, std::int64_t vocabulary, const Sums& sums,
                           const Memory& logp_slope, const std::optional<Memory>& entropy_slope,
                           const Memory& out, int num_threads) {
  const auto from = logit_rows(rows, vocabulary);
  const auto size = std::ssize(from.row);
  RowSlopes slopes{.logp = doubles(logp_slope, size), .entropy = {}};
  if (entropy_slope) {
    slopes.entropy = doubles(*entropy_slope, size);
  }
  require(out.dtype == std::get<0>(rows).dtype, "a gradient must have the dtype of the logits");
  write_row_gradients(from, row_sums(sums, size), slopes, output(out, std::get<0>(rows).size),
                      num_threads);
}

constexpr auto kReadLogitRowsDoc =
    "Write logp, entropy, maximum and total [C] of some rows to `out`. rows: logits [rows, V], row "
    "[C], target [C], temperature [C]; what is [C] and not a position is float64.";
constexpr auto kWriteLogitGradientsDoc =
    "Write d loss / d logit of those rows to the same rows of `out`, which may be the logits, from "
    "what read_logit_rows found and d loss / d logp, d loss / d entropy [C] float64.";

}  // namespace

void bind_logit_rows(py::module_& module) {
  using ReleaseGil = py::call_guard<ReleasedGil>;
  module.def("read_logit_rows", &read_logit_rows, py::arg("rows"), py::arg("vocabulary"),
             py::arg("out"), py::arg("num_threads"), kReadLogitRowsDoc, ReleaseGil());
  module.def("write_logit_gradients", &write_logit_gradients, py::arg("rows"),
             py::arg("vocabulary"), py::arg("sums"), py::arg("logp_slope"),
             py::arg("entropy_slope"), py::arg("out"), py::arg("num_threads"),
             kWriteLogitGradientsDoc, ReleaseGil());
}

}  // namespace finestep

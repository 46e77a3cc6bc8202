#include "python/comparison.h"

#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compare/comparison.h"
#include "python/result_rows.h"
#include "threads/parallel.h"

namespace py = pybind11;

namespace finestep {
namespace {

using PyOutcome = py::typing::Tuple<py::int_, py::float_>;

// Rows that are read before they are compared and forgotten: enough to share among threads, few
// enough to stay in the cache.
constexpr std::int64_t kRowsAtATime = 1 << 16;

ComparisonSettings settings_of(int semantics, bool ordered, double float_tolerance,
                               std::int64_t search_budget) {
  return {.semantics = static_cast<Semantics>(semantics),
          .ordered = ordered,
          .float_tolerance = float_tolerance,
          .search_budget = search_budget,
          .decoded_text = true};
}

// Reads again, as lists of tuples, rows that could not be read as they are.
Comparand read_with_care(const py::handle& rows, const ComparisonSettings& settings,
                         const std::string& name) {
  const py::list plain = plain_rows(rows, name);
  Comparand comparand(settings);
  if (const auto fault = read_rows(plain.ptr(), comparand)) {
    raise_fault(*fault, plain, name);
  }
  return comparand;
}

PyOutcome as_python(const Outcome& outcome) {
  return py::make_tuple(static_cast<int>(outcome.verdict), outcome.score);
}

// A result with the settings it was made ready for.
struct ReadyResult {
  ComparisonSettings settings;
  Comparand comparand;
};

std::unique_ptr<ReadyResult> ready_result(const py::object& rows, const std::string& name,
                                          int semantics, bool ordered, double float_tolerance,
                                          std::int64_t search_budget) {
  const auto settings = settings_of(semantics, ordered, float_tolerance, search_budget);
  auto ready = std::make_unique<ReadyResult>(
      ReadyResult{.settings = settings, .comparand = Comparand(settings)});
  if (read_rows(rows.ptr(), ready->comparand)) {
    ready->comparand = read_with_care(rows, settings, name);
  }
  const py::gil_scoped_release release;
  ready->comparand.finish();
  return ready;
}

PyOutcome outcome(const ReadyResult& predicted, const ReadyResult& gold) {
  Outcome result;
  {
    const py::gil_scoped_release release;
    result = compare(predicted.comparand, gold.comparand, gold.settings);
  }
  return as_python(result);
}

// A pair of results to be compared; even places are predicted ones, odd ones gold.
struct Side {
  py::object rows;
  Comparand comparand;
  bool is_read = false;
};

std::int64_t size_of(const py::handle& rows) {
  return PyList_Check(rows.ptr()) != 0 || PyTuple_Check(rows.ptr()) != 0
             ? static_cast<std::int64_t>(py::len(rows))
             : 0;
}

// Compares what has been collected and forgets it.
void compare_sides(std::vector<Side>& sides, std::vector<ComparisonSettings>& settings,
                   py::list& outcomes, int num_threads) {
  // This thread holds the GIL meanwhile, so that nobody changes what its helpers read.
  for_each_chunk(std::ssize(sides), num_threads, [&](std::int64_t at) {
    Side& side = sides[static_cast<std::size_t>(at)];
    side.is_read = !read_rows(side.rows.ptr(), side.comparand);
  });
  for (std::size_t at = 0; at < sides.size(); ++at) {
    if (!sides[at].is_read) {
      const std::size_t pair = outcomes.size() + (at / 2);
      sides[at].comparand =
          read_with_care(sides[at].rows, settings[at / 2],
                         "pairs[" + std::to_string(pair) + "][" + std::to_string(at % 2) + "]");
    }
  }
  std::vector<Outcome> results(settings.size());
  {
    const py::gil_scoped_release release;
    for_each_chunk(std::ssize(results), num_threads, [&](std::int64_t pair) {
      const auto at = static_cast<std::size_t>(pair);
      sides[2 * at].comparand.finish();
      sides[(2 * at) + 1].comparand.finish();
      results[at] = compare(sides[2 * at].comparand, sides[(2 * at) + 1].comparand, settings[at]);
    });
  }
  for (const Outcome& result : results) {
    outcomes.append(as_python(result));
  }
  sides.clear();
  settings.clear();
}

py::typing::List<PyOutcome> compare_pairs(
    const std::vector<std::pair<py::object, py::object>>& pairs, const std::vector<bool>& ordered,
    int semantics, double float_tolerance, std::int64_t search_budget, int num_threads) {
  if (ordered.size() != pairs.size()) {
    throw py::value_error("there must be one word on order per pair");
  }
  py::list outcomes;
  std::vector<Side> sides;
  std::vector<ComparisonSettings> settings;
  std::int64_t num_rows = 0;
  for (std::size_t at = 0; at < pairs.size(); ++at) {
    settings.push_back(settings_of(semantics, ordered[at], float_tolerance, search_budget));
    for (const py::object& rows : {pairs[at].first, pairs[at].second}) {
      num_rows += size_of(rows);
      sides.push_back({.rows = rows, .comparand = Comparand(settings.back())});
    }
    if (num_rows >= kRowsAtATime) {
      compare_sides(sides, settings, outcomes, num_threads);
      num_rows = 0;
    }
  }
  compare_sides(sides, settings, outcomes, num_threads);
  return outcomes;
}

constexpr auto kReadyDoc =
    "One result made ready for comparison. rows: sequences of int, float, str, bytes and None; "
    "name: what errors call them; semantics: an index into bird, strict, multiset, ordered, "
    "test_suite, soft_f1.";
constexpr auto kOutcomeDoc =
    "Compare this predicted result with a gold one made with the same settings: (0 different, "
    "1 equal, 2 undecided; score).";
constexpr auto kPairsDoc =
    "Compare pairs of a predicted and a gold result, each given as rows; ordered: one word per "
    "pair. Like ReadyResult.outcome for each, in their order.";

}  // namespace

void bind_comparison(py::module_& module) {
  py::class_<ReadyResult>(module, "ReadyResult", kReadyDoc)
      .def(py::init(&ready_result), py::arg("rows"), py::arg("name"), py::arg("semantics"),
           py::arg("ordered"), py::arg("float_tolerance"), py::arg("search_budget"))
      .def("outcome", &outcome, py::arg("gold"), kOutcomeDoc)
      .def_property_readonly("size_bytes",
                             [](const ReadyResult& ready) { return ready.comparand.size_bytes(); });
  module.def("compare_pairs", &compare_pairs, py::arg("pairs"), py::arg("ordered"),
             py::arg("semantics"), py::arg("float_tolerance"), py::arg("search_budget"),
             py::arg("num_threads"), kPairsDoc);
}

}  // namespace finestep

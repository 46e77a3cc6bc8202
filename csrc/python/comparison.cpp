#include "compare/comparison.h"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "python/bindings.h"
#include "python/enum_members.h"
#include "python/fields.h"
#include "python/gil.h"
#include "python/result_rows.h"
#include "threads/parallel.h"

namespace py = pybind11;

namespace finestep {
namespace {

using PyOutcome = py::typing::Tuple<Verdict, py::float_>;
using Verdicts = EnumMembers<Verdict, 3>;

// Rows that are read before they are compared and forgotten: enough to share among threads, few
// enough to stay in the cache.
constexpr std::int64_t kRowsAtATime = 1 << 16;

// Python's text is decoded; its settings know nothing of text that is not.
ComparisonSettings decoded(ComparisonSettings settings, bool ordered) {
  settings.ordered = ordered;
  settings.decoded_text = true;
  return settings;
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

// A result with the settings it was made ready for.
struct ReadyResult {
  ComparisonSettings settings;
  Comparand comparand;
};

std::unique_ptr<ReadyResult> ready_result(const py::object& rows, const std::string& name,
                                          const ComparisonSettings& given) {
  const auto settings = decoded(given, given.ordered);
  auto ready = std::make_unique<ReadyResult>(
      ReadyResult{.settings = settings, .comparand = Comparand(settings)});
  if (read_rows(rows.ptr(), ready->comparand)) {
    ready->comparand = read_with_care(rows, settings, name);
  }
  const ReleasedGil released;
  ready->comparand.finish();
  return ready;
}

PyOutcome outcome(const ReadyResult& predicted, const ReadyResult& gold) {
  Outcome result;
  {
    const ReleasedGil released;
    result = compare(predicted.comparand, gold.comparand, gold.settings);
  }
  return py::make_tuple(result.verdict, result.score);
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
                   py::list& outcomes, Verdicts& verdicts, int num_threads) {
  // This thread holds the GIL meanwhile, so that no Python code changes what the others read.
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
    const ReleasedGil released;
    for_each_chunk(std::ssize(results), num_threads, [&](std::int64_t pair) {
      const auto at = static_cast<std::size_t>(pair);
      sides[2 * at].comparand.finish();
      sides[(2 * at) + 1].comparand.finish();
      results[at] = compare(sides[2 * at].comparand, sides[(2 * at) + 1].comparand, settings[at]);
    });
  }
  for (const Outcome& result : results) {
    outcomes.append(py::make_tuple(verdicts[result.verdict], result.score));
  }
  sides.clear();
  settings.clear();
}

py::typing::List<PyOutcome> compare_pairs(
    const std::vector<std::pair<py::object, py::object>>& pairs, const std::vector<bool>& ordered,
    const ComparisonSettings& given, int num_threads) {
  if (ordered.size() != pairs.size()) {
    throw py::value_error("there must be one flag of order per pair");
  }
  py::list outcomes;
  Verdicts verdicts;
  std::vector<Side> sides;
  std::vector<ComparisonSettings> settings;
  std::int64_t num_rows = 0;
  for (std::size_t at = 0; at < pairs.size(); ++at) {
    settings.push_back(decoded(given, ordered[at]));
    for (const py::object& rows : {pairs[at].first, pairs[at].second}) {
      num_rows += size_of(rows);
      sides.push_back({.rows = rows, .comparand = Comparand(settings.back())});
    }
    if (num_rows >= kRowsAtATime) {
      compare_sides(sides, settings, outcomes, verdicts, num_threads);
      num_rows = 0;
    }
  }
  compare_sides(sides, settings, outcomes, verdicts, num_threads);
  return outcomes;
}

constexpr auto kReadyDoc =
    "One result made ready for comparison. rows: sequences of int, float, str, bytes and None; "
    "name: what errors call them.";
constexpr auto kOutcomeDoc =
    "Compare this predicted result with a gold one made with the same settings: (verdict, "
    "score).";
constexpr auto kPairsDoc =
    "Compare pairs of a predicted and a gold result, each given as rows; ordered: one flag per "
    "pair, which goes before that of the settings. Like ReadyResult.outcome for each, in their "
    "order.";

}  // namespace

void bind_comparison(py::module_& module) {
  py::native_enum<Semantics>(module, "Semantics", "enum.Enum", "When two results are the same.")
      .value("bird", Semantics::bird)
      .value("strict", Semantics::strict)
      .value("multiset", Semantics::multiset)
      .value("ordered", Semantics::ordered)
      .value("test_suite", Semantics::test_suite)
      .value("soft_f1", Semantics::soft_f1)
      .finalize();
  py::native_enum<Verdict>(module, "Verdict", "enum.Enum", "Whether two results are the same.")
      .value("different", Verdict::different)
      .value("equal", Verdict::equal)
      .value("undecided", Verdict::undecided)
      .finalize();
  using S = ComparisonSettings;
  bind_fields(module, "ComparisonSettings", "How results are compared.",
              Field{"semantics", &S::semantics}, Field{"ordered", &S::ordered},
              Field{"float_tolerance", &S::float_tolerance},
              Field{"search_budget", &S::search_budget});
  py::class_<ReadyResult>(module, "ReadyResult", kReadyDoc)
      .def(py::init(&ready_result), py::arg("rows"), py::arg("name"), py::arg("settings"))
      .def("outcome", &outcome, py::arg("gold"), kOutcomeDoc)
      .def_property_readonly("size_bytes",
                             [](const ReadyResult& ready) { return ready.comparand.size_bytes(); });
  module.def("compare_pairs", &compare_pairs, py::arg("pairs"), py::arg("ordered"),
             py::arg("settings"), py::arg("num_threads"), kPairsDoc);
}

}  // namespace finestep

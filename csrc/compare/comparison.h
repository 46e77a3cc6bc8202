// When two query results are the same: every definition in use under its own name. Rows come in,
// once, and are kept as hashes or in a shape fit for comparing; a verdict goes out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "compare/cell.h"
#include "compare/verdict.h"

namespace finestep {

// Named as in Python's `Semantics`.
enum class Semantics : std::uint8_t { bird, strict, multiset, ordered, test_suite, soft_f1 };

struct ComparisonSettings {
  Semantics semantics = Semantics::bird;
  bool ordered = false;        // strict and test_suite: the gold query orders its rows
  double float_tolerance = 0;  // strict: between two numbers of which at least one is real
  // Values read in a search for a permutation or a pairing before it gives up.
  std::int64_t search_budget = 500'000'000;
  // Text is given as a program decoded it, not as a database holds it: it is never invalid UTF-8,
  // and test_suite, which otherwise drops bytes that are, keeps all of it.
  bool decoded_text = false;
};

struct Outcome {
  Verdict verdict = Verdict::different;
  double score = 0;  // soft_f1: F1 in [0, 1]; else 1 if equal, 0 if not or undecided
};

// One result made ready for comparison. Filled by one thread; after finish() threads may share it.
class Comparand {
 public:
  explicit Comparand(const ComparisonSettings& settings);
  Comparand(Comparand&&) noexcept;
  Comparand& operator=(Comparand&&) noexcept;
  Comparand(const Comparand&) = delete;
  Comparand& operator=(const Comparand&) = delete;
  ~Comparand();

  // Takes the next row. Rows of one result may differ in width where they are hashed as a whole;
  // under test_suite, soft_f1 and with a tolerance std::invalid_argument is thrown.
  void add_row(std::span<const Cell> row);
  // To be called once, after the last row and before compare().
  void finish();

  [[nodiscard]] std::int64_t num_rows() const;
  [[nodiscard]] std::size_t size_bytes() const;  // memory held, about
  [[nodiscard]] bool invalid_utf8() const;       // whether some text was not valid UTF-8

  struct State;
  [[nodiscard]] const State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// The verdict on two finished results. They and `settings` must agree in semantics, order and
// whether there is a tolerance; std::invalid_argument is thrown where they are kept differently.
Outcome compare(const Comparand& predicted, const Comparand& gold,
                const ComparisonSettings& settings);

// Whether the rows so far already rule out that an unfinished result will equal a finished gold
// one, all rows of either being of one width. It uses the row last added and the number of rows,
// so ask after every row or every few rows.
bool cannot_equal(const Comparand& partial, const Comparand& gold,
                  const ComparisonSettings& settings);

}  // namespace finestep

// Perfect matchings of rows whose numbers are close.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compare/close_rows.h"
#include "compare/verdict.h"

namespace finestep {

// Pairs rows of `a` with rows of `b`; `real` marks the columns in which numbers may differ.
class RowMatching {
 public:
  RowMatching(const CloseRows& a, const CloseRows& b, const std::vector<bool>& real,
              double tolerance, std::int64_t budget)
      : a_(&a), b_(&b), real_(&real), tolerance_(tolerance), budget_(budget) {}

  // Whether equally many rows, given by their places, can be paired. Tries them as they stand, then
  // looks for augmenting paths. Undecided once the budget of all calls together is spent.
  Verdict match(std::span<const std::size_t> rows_a, std::span<const std::size_t> rows_b);

 private:
  struct Group;
  [[nodiscard]] bool rows_close(std::size_t row_a, std::size_t row_b);
  [[nodiscard]] std::size_t most_telling_column(std::span<const std::size_t> rows_b) const;
  bool augment(Group& group, std::size_t start);

  const CloseRows* a_;
  const CloseRows* b_;
  const std::vector<bool>* real_;
  double tolerance_;
  std::int64_t budget_;
};

}  // namespace finestep

// Results whose numbers may differ by a tolerance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compare/cell.h"
#include "compare/growing_array.h"
#include "compare/verdict.h"

namespace finestep {

// A value as it is compared: a number as it is, text and blobs by their hash.
struct CloseCell {
  CellKind kind = CellKind::null;
  std::uint64_t bits = 0;
};

// The number in a cell as a double; 0 for what is none.
double number(const CloseCell& cell);

// Python's a == b, or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for two numbers of
// which at least one is real.
bool close(const CloseCell& a, const CloseCell& b, double tolerance);

// All rows, 9 bytes a value.
class CloseRows {
 public:
  void add(std::span<const Cell> row);
  void finish() {}
  // Whether the rows are close one by one, in their order.
  [[nodiscard]] bool lists_close(const CloseRows& other, double tolerance) const;
  // Whether the rows can be paired so that every pair is close. Rows that agree in all that must
  // be exact are sorted and paired; where that fails a perfect matching is looked for, which
  // stops after about `budget` comparisons of values. Never recursive.
  [[nodiscard]] Verdict bags_close(const CloseRows& other, double tolerance,
                                   std::int64_t budget) const;
  [[nodiscard]] std::size_t size_bytes() const { return kinds_.size_bytes() + bits_.size_bytes(); }

  [[nodiscard]] std::size_t num_rows() const { return num_rows_; }
  [[nodiscard]] std::size_t num_columns() const { return num_columns_; }
  [[nodiscard]] CloseCell cell(std::size_t row, std::size_t column) const {
    const std::size_t at = (row * num_columns_) + column;
    return {.kind = kinds_[at], .bits = bits_[at]};
  }

 private:
  [[nodiscard]] bool has_shape_of(const CloseRows& other) const {
    return num_rows_ == other.num_rows_ && (num_rows_ == 0 || num_columns_ == other.num_columns_);
  }

  std::size_t num_columns_ = 0;
  std::size_t num_rows_ = 0;
  GrowingArray<CellKind> kinds_;
  GrowingArray<std::uint64_t> bits_;
};

}  // namespace finestep

// From rows of logits to log-probability and entropy of each row's target, and back to a gradient.
#pragma once

#include <cstdint>
#include <span>

#include "numbers/element.h"

namespace finestep {

// Rows of a matrix of logits with `vocabulary` columns, side by side in memory.
struct LogitRows {
  Elements logits;                       // the whole matrix
  std::int64_t num_rows = 0;             // of the whole matrix
  std::int64_t vocabulary = 0;           // V
  std::span<const std::int64_t> row;     // [C] the rows that are read; the others are not touched
  std::span<const std::int64_t> target;  // [C] 0 .. V-1
  std::span<const double> temperature;   // [C] the logits of a row are divided by it
};

// Throws std::out_of_range where a row or target could lead outside the matrix.
void check_rows(const LogitRows& rows);

// [C] each: what one pass over the rows finds.
struct RowSums {
  std::span<double> logp;     // of the target, never above 0
  std::span<double> entropy;  // of the row's distribution, never below 0
  std::span<double> maximum;  // largest logit
  std::span<double> total;    // sum_j exp((logit_j - maximum) / temperature), at least 1
};

// Reads each row once.
void read_rows(const LogitRows& rows, const RowSums& sums, int num_threads);

// d loss / d logp and d loss / d entropy, [C]; the second may be absent.
struct RowSlopes {
  std::span<const double> logp;
  std::span<const double> entropy;
};

// Writes d loss / d logit to the same rows of `gradient`, a matrix of the same shape, which may be
// the logits themselves. Reads each row once, except a row whose slopes are 0: it becomes 0.
void write_row_gradients(const LogitRows& rows, const RowSums& sums, const RowSlopes& slopes,
                         Elements gradient, int num_threads);

}  // namespace finestep

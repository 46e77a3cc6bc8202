// The test-suite evaluator's comparison: results that are equal once columns are permuted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "compare/cell.h"
#include "compare/growing_array.h"
#include "compare/keyed_hash.h"
#include "compare/verdict.h"

namespace finestep {

// Rows in their order under some permutation of columns: as each column is one list, the lists of
// both results must be the same, in any order. Memory does not grow with the rows.
class ColumnLists {
 public:
  void add(std::span<const Cell> row);
  void finish();
  [[nodiscard]] bool equals(const ColumnLists& other) const;
  [[nodiscard]] std::size_t size_bytes() const { return columns_.size() * sizeof(KeyedHash); }

 private:
  std::vector<KeyedHash> columns_;
  KeyedHash unordered_rows_;
  std::vector<std::uint64_t> hashes_;  // of the row at hand
  std::vector<Hash128> digests_;       // one per column, sorted
  Hash128 unordered_digest_;
};

// The bag of rows, kept as 8 bytes a value for the search of a permutation.
class ColumnBag {
 public:
  void add(std::span<const Cell> row);
  void finish() {}
  // Spends at most about `budget` visits of a value once columns must be tried out.
  [[nodiscard]] Verdict match(const ColumnBag& other, std::int64_t budget) const;
  [[nodiscard]] std::size_t size_bytes() const;

 private:
  [[nodiscard]] GrowingArray<Hash128> unordered_rows() const;

  std::size_t num_columns_ = 0;
  std::size_t num_rows_ = 0;
  GrowingArray<std::uint64_t> cells_;  // row by row, the hash of each value
  Hash128 digest_;                     // of the bag of unordered rows, without their warps
  std::vector<std::pair<std::size_t, Hash128>> warps_;  // the rows that have one, ascending
};

}  // namespace finestep

// BIRD mini-dev's Soft-F1: how many values of paired rows agree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compare/cell.h"
#include "compare/growing_array.h"
#include "compare/keyed_hash.h"

namespace finestep {

// The different rows of a result in the order in which they first came: 8 bytes a value, and while
// rows are added 16 to 64 bytes a row to recognise them.
class FirstRows {
 public:
  void add(std::span<const Cell> row);
  void finish() { seen_ = {}; }
  // F1 of this result as the predicted one, in [0, 1]: rows are paired by position, a value counts
  // if the other row of its pair holds it anywhere. Two empty results score 1. A gold row without
  // columns makes the score 0; the original would divide by its number of columns.
  [[nodiscard]] double score(const FirstRows& gold) const;
  [[nodiscard]] std::size_t size_bytes() const;

 private:
  [[nodiscard]] std::span<const std::uint64_t> row(std::size_t at) const {
    return cells_.span().subspan(at * num_columns_, num_columns_);
  }
  bool is_new(const Hash128& digest);

  std::size_t num_columns_ = 0;
  std::size_t num_rows_ = 0;
  GrowingArray<std::uint64_t> cells_;
  std::vector<std::uint64_t> hashes_;  // of the row at hand
  std::vector<Hash128> seen_;          // open addressing; all zero where free
};

}  // namespace finestep

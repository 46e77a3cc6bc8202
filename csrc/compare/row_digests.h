// Results that are compared by hashes of whole rows: as a set, as a bag, as a list.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compare/cell.h"
#include "compare/growing_array.h"
#include "compare/keyed_hash.h"

namespace finestep {

// Puts hashes in order and keeps one of each. Linear in practice: keyed hashes spread evenly.
void sort_unique(GrowingArray<Hash128>& hashes);

// The set of rows: 16 bytes a row.
class RowSet {
 public:
  void add(std::span<const Cell> row);
  void finish() { sort_unique(hashes_); }
  [[nodiscard]] bool equals(const RowSet& other) const;
  // Whether the row last added is missing in a finished set.
  [[nodiscard]] bool last_is_missing_in(const RowSet& finished) const;
  [[nodiscard]] std::size_t size_bytes() const { return hashes_.size_bytes(); }

 private:
  GrowingArray<Hash128> hashes_;
};

// The bag of rows, as the sum of their hashes, each half modulo 2^64. As the hashes are keyed, two
// different bags have the same sum by chance only, with a probability of about 2^-128.
class RowBag {
 public:
  void add(std::span<const Cell> row);
  void finish() {}
  [[nodiscard]] bool equals(const RowBag& other) const { return sum_ == other.sum_; }
  [[nodiscard]] static std::size_t size_bytes() { return 0; }

 private:
  Hash128 sum_;
};

// The list of rows, as one hash over all of them.
class RowList {
 public:
  void add(std::span<const Cell> row);
  void finish() { digest_ = rows_.finish(); }
  [[nodiscard]] bool equals(const RowList& other) const { return digest_ == other.digest_; }
  [[nodiscard]] static std::size_t size_bytes() { return 0; }

 private:
  KeyedHash rows_;
  Hash128 digest_;
};

}  // namespace finestep

#include "compare/column_match.h"

#include <algorithm>

#include "compare/column_search.h"
#include "compare/row_digests.h"
#include "compare/unordered_row.h"

namespace finestep {
namespace {

std::uint64_t hash_of(const Cell& cell) {
  KeyedHash hash;
  hash.add(cell);
  return hash.finish64();
}

}  // namespace

void ColumnLists::add(std::span<const Cell> row) {
  columns_.resize(row.size());
  hashes_.clear();
  for (std::size_t column = 0; column < row.size(); ++column) {
    columns_[column].add(row[column]);
    hashes_.push_back(hash_of(row[column]));
  }
  const UnorderedRow unordered = unordered_row(row, hashes_);
  unordered_rows_.add(unordered.values);
  unordered_rows_.add(unordered.warp.low);
  unordered_rows_.add(unordered.warp.high);
}

void ColumnLists::finish() {
  for (const KeyedHash& column : columns_) {
    digests_.push_back(column.finish());
  }
  std::ranges::sort(digests_);
  unordered_digest_ = unordered_rows_.finish();
}

bool ColumnLists::equals(const ColumnLists& other) const {
  return digests_ == other.digests_ && unordered_digest_ == other.unordered_digest_;
}

void ColumnBag::add(std::span<const Cell> row) {
  num_columns_ = row.size();
  ++num_rows_;
  const std::size_t first = cells_.size();
  for (const Cell& cell : row) {
    cells_.push_back(hash_of(cell));
  }
  const auto unordered = unordered_row(row, std::as_const(cells_).span().subspan(first));
  digest_.low += scrambled(unordered.values);
  digest_.high += mixed(unordered.values, 1);
  if (unordered.warp != Hash128{}) {
    warps_.emplace_back(num_rows_ - 1, unordered.warp);
  }
}

GrowingArray<Hash128> ColumnBag::unordered_rows() const {
  GrowingArray<Hash128> rows;
  auto warp = warps_.begin();
  for (std::size_t row = 0; row < num_rows_; ++row) {
    Hash128 key;
    for (std::size_t at = row * num_columns_; at < (row + 1) * num_columns_; ++at) {
      key.low += cells_[at];
    }
    if (warp != warps_.end() && warp->first == row) {
      key.high = mixed(warp->second.low, warp->second.high);
      ++warp;
    }
    rows.push_back({.low = scrambled(key.low), .high = key.high});
  }
  sort_unique(rows);
  return rows;
}

Verdict ColumnBag::match(const ColumnBag& other, std::int64_t budget) const {
  if (num_rows_ != other.num_rows_ || num_columns_ != other.num_columns_ ||
      digest_ != other.digest_) {
    return Verdict::different;
  }
  // That evaluator compares unordered rows as sets, which says more than the permutation below
  // only where values are sorted in a warped order.
  if (!(warps_.empty() && other.warps_.empty())) {
    const auto rows = unordered_rows();
    const auto other_rows = other.unordered_rows();
    if (!std::ranges::equal(rows.span(), other_rows.span())) {
      return Verdict::different;
    }
  }
  return column_permutation(cells_.span(), other.cells_.span(), num_columns_, budget);
}

std::size_t ColumnBag::size_bytes() const {
  return cells_.size_bytes() + (warps_.capacity() * sizeof(warps_[0]));
}

}  // namespace finestep

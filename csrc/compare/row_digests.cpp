#include "compare/row_digests.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace finestep {
namespace {

constexpr std::size_t kFewHashes = 64;
constexpr unsigned kFirstBits = 11;  // as many streams as the translation buffer has room for

void add_row(KeyedHash& hash, std::span<const Cell> row) {
  hash.add(row.size());
  for (const Cell& cell : row) {
    hash.add(cell);
  }
}

// Copies hashes, ordered by `bits` bits of their low half below `shift`; `start` receives where
// each of the 2^bits groups begins, and the end.
void scatter(std::span<const Hash128> from, std::span<Hash128> to, unsigned shift, unsigned bits,
             std::vector<std::size_t>& start) {
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  const auto group = [shift, mask](const Hash128& hash) {
    return static_cast<std::size_t>((hash.low >> shift) & mask);
  };
  start.assign((std::size_t{1} << bits) + 1, 0);
  for (const Hash128& hash : from) {
    ++start[group(hash) + 1];
  }
  for (std::size_t at = 1; at < start.size(); ++at) {
    start[at] += start[at - 1];
  }
  std::vector<std::size_t> next(start.begin(), start.end() - 1);
  for (const Hash128& hash : from) {
    to[next[group(hash)]++] = hash;
  }
}

// Sorts hashes: two rounds by their highest bits leave groups of a few, which are sorted in place.
void sort(std::span<Hash128> hashes) {
  if (hashes.size() <= kFewHashes) {
    std::ranges::sort(hashes);
    return;
  }
  const auto width = static_cast<unsigned>(std::bit_width(hashes.size() / 4));
  const unsigned first_bits = std::min(width, kFirstBits);
  std::vector<Hash128> scattered(hashes.size());
  std::vector<std::size_t> start;
  std::vector<std::size_t> inner_start;
  scatter(hashes, scattered, 64 - first_bits, first_bits, start);
  for (std::size_t g = 0; g + 1 < start.size(); ++g) {
    const auto group = std::span(scattered).subspan(start[g], start[g + 1] - start[g]);
    const auto target = hashes.subspan(start[g], group.size());
    if (group.size() <= kFewHashes) {
      std::ranges::sort(group);
      std::ranges::copy(group, target.begin());
      continue;
    }
    const unsigned bits = std::min(width - std::min(first_bits, width - 1), kFirstBits);
    scatter(group, target, 64 - first_bits - bits, bits, inner_start);
    for (std::size_t i = 0; i + 1 < inner_start.size(); ++i) {
      std::ranges::sort(target.subspan(inner_start[i], inner_start[i + 1] - inner_start[i]));
    }
  }
}

}  // namespace

void sort_unique(GrowingArray<Hash128>& hashes) {
  const auto all = hashes.span();
  sort(all);
  // NOLINTNEXTLINE(modernize-use-ranges): what it returns, clang 14 cannot compile.
  const auto rest = std::unique(all.begin(), all.end());
  hashes.truncate(static_cast<std::size_t>(rest - all.begin()));
}

void RowSet::add(std::span<const Cell> row) {
  KeyedHash hash;
  add_row(hash, row);
  const Hash128 digest = hash.finish();
  if (hashes_.size() == 0 || hashes_[hashes_.size() - 1] != digest) {
    hashes_.push_back(digest);
  }
}

bool RowSet::equals(const RowSet& other) const {
  return std::ranges::equal(hashes_.span(), other.hashes_.span());
}

bool RowSet::last_is_missing_in(const RowSet& finished) const {
  return hashes_.size() > 0 &&
         !std::ranges::binary_search(finished.hashes_.span(), hashes_[hashes_.size() - 1]);
}

void RowBag::add(std::span<const Cell> row) {
  KeyedHash hash;
  add_row(hash, row);
  const Hash128 digest = hash.finish();
  sum_.low += digest.low;
  sum_.high += digest.high;
}

void RowList::add(std::span<const Cell> row) { add_row(rows_, row); }

}  // namespace finestep

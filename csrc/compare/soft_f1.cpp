#include "compare/soft_f1.h"

#include <algorithm>

namespace finestep {
namespace {

constexpr std::size_t kNarrow = 16;
constexpr std::size_t kFirstPlaces = 16;

// How many values of `row` the other row holds. `sorted` says that the other one is sorted.
std::size_t num_found(std::span<const std::uint64_t> row, std::span<const std::uint64_t> other,
                      bool sorted) {
  return static_cast<std::size_t>(std::ranges::count_if(row, [&](std::uint64_t value) {
    return sorted ? std::ranges::binary_search(other, value)
                  : std::ranges::find(other, value) != other.end();
  }));
}

std::vector<std::uint64_t> sorted_copy(std::span<const std::uint64_t> row) {
  std::vector<std::uint64_t> copy(row.begin(), row.end());
  std::ranges::sort(copy);
  return copy;
}

std::size_t num_found(std::span<const std::uint64_t> row, std::span<const std::uint64_t> other) {
  if (row.size() <= kNarrow || other.size() <= kNarrow) {
    return num_found(row, other, false);
  }
  return num_found(row, sorted_copy(other), true);
}

}  // namespace

bool FirstRows::is_new(const Hash128& digest) {
  const auto place = [this](const Hash128& sought) {
    std::size_t at = sought.low & (seen_.size() - 1);
    while (seen_[at] != Hash128{} && seen_[at] != sought) {
      at = (at + 1) & (seen_.size() - 1);
    }
    return at;
  };
  if (2 * (num_rows_ + 1) > seen_.size()) {
    std::vector<Hash128> before(std::max(kFirstPlaces, 2 * seen_.size()));
    before.swap(seen_);
    for (const Hash128& known : before) {
      if (known != Hash128{}) {
        seen_[place(known)] = known;
      }
    }
  }
  Hash128& found = seen_[place(digest)];
  const bool is_free = found != digest;
  found = digest;
  return is_free;
}

void FirstRows::add(std::span<const Cell> row) {
  num_columns_ = row.size();
  hashes_.clear();
  KeyedHash all;
  for (const Cell& cell : row) {
    KeyedHash one;
    one.add(cell);
    hashes_.push_back(one.finish64());
    all.add(hashes_.back());
  }
  if (is_new(all.finish())) {
    ++num_rows_;
    for (const std::uint64_t hash : hashes_) {
      cells_.push_back(hash);
    }
  }
}

double FirstRows::score(const FirstRows& gold) const {
  if (num_rows_ == 0 && gold.num_rows_ == 0) {
    return 1;
  }
  const std::size_t num_pairs = std::min(num_rows_, gold.num_rows_);
  if (num_pairs > 0 && gold.num_columns_ == 0) {
    return 0;
  }
  // Added up in the original's order, term by term: rounding is part of the score.
  const auto columns = static_cast<double>(gold.num_columns_);
  double both = 0;
  double predicted_only = 0;
  double gold_only = 0;
  for (std::size_t at = 0; at < num_pairs; ++at) {
    const std::size_t found = num_found(row(at), gold.row(at));
    both += static_cast<double>(found) / columns;
    predicted_only += static_cast<double>(num_columns_ - found) / columns;
    gold_only +=
        static_cast<double>(gold.num_columns_ - num_found(gold.row(at), row(at))) / columns;
  }
  for (std::size_t at = num_pairs; at < gold.num_rows_; ++at) {
    gold_only += 1;
  }
  for (std::size_t at = num_pairs; at < num_rows_; ++at) {
    predicted_only += 1;
  }
  const double precision = both + predicted_only > 0 ? both / (both + predicted_only) : 0;
  const double recall = both + gold_only > 0 ? both / (both + gold_only) : 0;
  return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

std::size_t FirstRows::size_bytes() const {
  return cells_.size_bytes() + (seen_.capacity() * sizeof(Hash128));
}

}  // namespace finestep

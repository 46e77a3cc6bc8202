#include "compare/row_matching.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace finestep {
namespace {

constexpr auto kNone = std::numeric_limits<std::size_t>::max();

// The numbers that can be close to `value` lie in [low, high]; somewhat wider than need be.
struct Window {
  double low;
  double high;
};

Window window(double value, double tolerance) {
  if (std::isinf(value)) {
    return {.low = value, .high = value};
  }
  if (tolerance >= 0.5) {
    return {.low = -std::numeric_limits<double>::infinity(),
            .high = std::numeric_limits<double>::infinity()};
  }
  // |x - value| <= tolerance * |x| and |x| <= |value| + |x - value| bound |x - value|.
  const double reach =
      std::max(std::fabs(value) * tolerance / (1 - tolerance), tolerance) * (1 + 0x1p-30);
  return {.low = value - reach - std::fabs(value) * 0x1p-50,
          .high = value + reach + std::fabs(value) * 0x1p-50};
}

}  // namespace

// Rows that agree in all that is exact; places in here are places in these lists.
struct RowMatching::Group {
  std::span<const std::size_t> rows_a;
  std::vector<std::size_t> rows_b;  // by their number in the telling column, which `value_b` holds
  std::vector<double> value_b;
  std::size_t telling_column;
  std::vector<std::size_t> partner_of_a;
  std::vector<std::size_t> partner_of_b;
  std::vector<std::size_t> reached_from;   // the place in a from which a place in b was reached
  std::vector<std::size_t> reached_round;  // and in which search
};

bool RowMatching::rows_close(std::size_t row_a, std::size_t row_b) {
  for (std::size_t column = 0; column < real_->size(); ++column) {
    --budget_;
    if ((*real_)[column] && !close(a_->cell(row_a, column), b_->cell(row_b, column), tolerance_)) {
      return false;
    }
  }
  return true;
}

// The column in which the rows have the most different numbers.
std::size_t RowMatching::most_telling_column(std::span<const std::size_t> rows_b) const {
  std::size_t best = 0;
  std::ptrdiff_t most = -1;
  std::vector<double> values;
  for (std::size_t column = 0; column < real_->size(); ++column) {
    if (!(*real_)[column]) {
      continue;
    }
    values.clear();
    for (const std::size_t row : rows_b) {
      values.push_back(number(b_->cell(row, column)));
    }
    std::ranges::sort(values);
    // NOLINTNEXTLINE(modernize-use-ranges): what it returns, clang 14 cannot compile.
    const auto different = std::unique(values.begin(), values.end()) - values.begin();
    if (different > most) {
      most = different;
      best = column;
    }
  }
  return best;
}

Verdict RowMatching::match(std::span<const std::size_t> rows_a,
                           std::span<const std::size_t> rows_b) {
  const std::size_t size = rows_a.size();
  Group group{.rows_a = rows_a,
              .rows_b = {},
              .value_b = {},
              .telling_column = 0,
              .partner_of_a = std::vector(size, kNone),
              .partner_of_b = std::vector(size, kNone),
              .reached_from = {},
              .reached_round = {}};
  // Pairing rows as they stand is never given up; mostly that is all.
  const std::int64_t budget = budget_;
  std::vector<bool> fits(size);
  for (std::size_t at = 0; at < size; ++at) {
    fits[at] = rows_close(rows_a[at], rows_b[at]);
  }
  budget_ = budget;
  if (std::ranges::find(fits, false) == fits.end()) {
    return Verdict::equal;
  }
  group.telling_column = most_telling_column(rows_b);
  const auto value = [&](std::size_t at) {
    return number(b_->cell(rows_b[at], group.telling_column));
  };
  std::vector<std::size_t> order(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, value);
  for (std::size_t to = 0; to < size; ++to) {
    const std::size_t at = order[to];
    group.rows_b.push_back(rows_b[at]);
    group.value_b.push_back(value(at));
    if (fits[at]) {
      group.partner_of_a[at] = to;
      group.partner_of_b[to] = at;
    }
  }
  group.reached_from.assign(size, kNone);
  group.reached_round.assign(size, kNone);
  for (std::size_t start = 0; start < size; ++start) {
    if (group.partner_of_a[start] == kNone && !augment(group, start)) {
      return budget_ < 0 ? Verdict::undecided : Verdict::different;
    }
  }
  return Verdict::equal;
}

// Gives row `start` of a a partner, if need be by giving others new ones (an augmenting path).
bool RowMatching::augment(Group& group, std::size_t start) {
  std::vector<std::size_t> frontier = {start};
  std::size_t free = kNone;
  while (free == kNone) {
    if (frontier.empty()) {
      return false;
    }
    const std::size_t from = frontier.back();
    frontier.pop_back();
    const std::size_t row_a = group.rows_a[from];
    const Window near = window(number(a_->cell(row_a, group.telling_column)), tolerance_);
    const auto first = std::ranges::lower_bound(group.value_b, near.low);
    for (auto to = static_cast<std::size_t>(first - group.value_b.begin());
         to < group.value_b.size() && group.value_b[to] <= near.high && free == kNone; ++to) {
      if (--budget_ < 0) {
        return false;
      }
      if (group.reached_round[to] == start || !rows_close(row_a, group.rows_b[to])) {
        continue;
      }
      group.reached_round[to] = start;
      group.reached_from[to] = from;
      if (group.partner_of_b[to] == kNone) {
        free = to;
      } else {
        frontier.push_back(group.partner_of_b[to]);
      }
    }
  }
  while (free != kNone) {
    const std::size_t from = group.reached_from[free];
    const std::size_t before = group.partner_of_a[from];
    group.partner_of_a[from] = free;
    group.partner_of_b[free] = from;
    free = before;
  }
  return true;
}

}  // namespace finestep

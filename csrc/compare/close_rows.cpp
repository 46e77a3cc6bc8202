#include "compare/close_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "compare/keyed_hash.h"
#include "compare/row_matching.h"

namespace finestep {
namespace {

bool is_number(const CloseCell& cell) {
  return cell.kind == CellKind::integer || cell.kind == CellKind::real;
}

// Which columns hold a real somewhere; in all others numbers must agree exactly.
std::vector<bool> real_columns(const CloseRows& a, const CloseRows& b) {
  std::vector<bool> real(a.num_columns(), false);
  for (const CloseRows* rows : {&a, &b}) {
    for (std::size_t row = 0; row < rows->num_rows(); ++row) {
      for (std::size_t column = 0; column < real.size(); ++column) {
        real[column] = real[column] || rows->cell(row, column).kind == CellKind::real;
      }
    }
  }
  return real;
}

// A row, and the hash of everything in it that must agree exactly.
struct Place {
  std::uint64_t exact = 0;
  std::size_t row = 0;
};

// Rows that agree in all that is exact stand together, sorted by their other numbers.
std::vector<Place> sorted_places(const CloseRows& rows, const std::vector<bool>& real) {
  std::vector<Place> places;
  places.reserve(rows.num_rows());
  for (std::size_t row = 0; row < rows.num_rows(); ++row) {
    KeyedHash exact;
    for (std::size_t column = 0; column < real.size(); ++column) {
      const CloseCell cell = rows.cell(row, column);
      const bool varies = real[column] && is_number(cell);
      exact.add(varies ? std::uint64_t{0} : static_cast<std::uint64_t>(cell.kind) + 1);
      exact.add(varies ? std::uint64_t{0} : cell.bits);
    }
    places.push_back({.exact = exact.finish64(), .row = row});
  }
  std::ranges::sort(places, [&](const Place& a, const Place& b) {
    if (a.exact != b.exact) {
      return a.exact < b.exact;
    }
    for (std::size_t column = 0; column < real.size(); ++column) {
      if (real[column]) {
        const double x = number(rows.cell(a.row, column));
        const double y = number(rows.cell(b.row, column));
        if (x != y) {
          return x < y;
        }
      }
    }
    return false;
  });
  return places;
}

}  // namespace

double number(const CloseCell& cell) {
  if (cell.kind == CellKind::real) {
    return std::bit_cast<double>(cell.bits);
  }
  return cell.kind == CellKind::integer ? static_cast<double>(static_cast<std::int64_t>(cell.bits))
                                        : 0;
}

bool close(const CloseCell& a, const CloseCell& b, double tolerance) {
  if (!is_number(a) || !is_number(b)) {
    return a.kind == b.kind && a.bits == b.bits;
  }
  if (a.kind == CellKind::integer && b.kind == CellKind::integer) {
    return a.bits == b.bits;
  }
  // An integer and a real of the same value are also equal as doubles, so this decides all cases.
  const double x = number(a);
  const double y = number(b);
  if (x == y) {
    return true;
  }
  if (std::isinf(x) || std::isinf(y)) {
    return false;
  }
  const double difference = std::fabs(y - x);
  return difference <= std::fabs(tolerance * y) || difference <= std::fabs(tolerance * x) ||
         difference <= tolerance;
}

void CloseRows::add(std::span<const Cell> row) {
  num_columns_ = row.size();
  ++num_rows_;
  for (const Cell& cell : row) {
    std::uint64_t bits = 0;
    CellKind kind = cell.kind;
    if (kind == CellKind::integer) {
      bits = static_cast<std::uint64_t>(cell.integer);
    } else if (kind == CellKind::real) {
      kind = std::isnan(cell.real) ? CellKind::null : kind;
      bits = kind == CellKind::null ? 0 : std::bit_cast<std::uint64_t>(cell.real);
    } else if (kind != CellKind::null) {
      KeyedHash hash;
      hash.add(cell);
      bits = hash.finish64();
    }
    kinds_.push_back(kind);
    bits_.push_back(bits);
  }
}

bool CloseRows::lists_close(const CloseRows& other, double tolerance) const {
  if (!has_shape_of(other)) {
    return false;
  }
  for (std::size_t row = 0; row < num_rows_; ++row) {
    for (std::size_t column = 0; column < num_columns_; ++column) {
      if (!close(cell(row, column), other.cell(row, column), tolerance)) {
        return false;
      }
    }
  }
  return true;
}

Verdict CloseRows::bags_close(const CloseRows& other, double tolerance, std::int64_t budget) const {
  if (!has_shape_of(other)) {
    return Verdict::different;
  }
  if (num_rows_ == 0) {
    return Verdict::equal;
  }
  const auto real = real_columns(*this, other);
  const auto places = sorted_places(*this, real);
  const auto other_places = sorted_places(other, real);
  if (!std::ranges::equal(places, other_places, {}, &Place::exact, &Place::exact)) {
    return Verdict::different;
  }
  RowMatching matching(*this, other, real, tolerance, budget);
  std::vector<std::size_t> group;
  std::vector<std::size_t> other_group;
  for (std::size_t first = 0; first < places.size(); first += group.size()) {
    group.clear();
    other_group.clear();
    for (std::size_t at = first; at < places.size() && places[at].exact == places[first].exact;
         ++at) {
      group.push_back(places[at].row);
      other_group.push_back(other_places[at].row);
    }
    const Verdict verdict = matching.match(group, other_group);
    if (verdict != Verdict::equal) {
      return verdict;
    }
  }
  return Verdict::equal;
}

}  // namespace finestep

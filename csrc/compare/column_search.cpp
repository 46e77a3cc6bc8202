#include "compare/column_search.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "compare/keyed_hash.h"

namespace finestep {
namespace {

using Colours = std::vector<std::uint64_t>;  // one per column that is compared

// The columns of one result; of columns that agree in every row only the first is compared.
struct Columns {
  std::span<const std::uint64_t> cells;
  std::size_t stride = 0;
  std::vector<std::size_t> place;  // of each column that is compared
  Colours colours;                 // at first how many columns it stands for

  [[nodiscard]] std::size_t size() const { return place.size(); }
  [[nodiscard]] std::int64_t visits() const {
    return static_cast<std::int64_t>(cells.size() / stride * place.size());
  }
};

Columns columns_of(std::span<const std::uint64_t> cells, std::size_t stride) {
  Colours lists(stride, 0);
  for (std::size_t first = 0; first < cells.size(); first += stride) {
    for (std::size_t column = 0; column < stride; ++column) {
      lists[column] = mixed(lists[column], cells[first + column]);
    }
  }
  Columns columns{.cells = cells, .stride = stride, .place = {}, .colours = {}};
  for (std::size_t column = 0; column < stride; ++column) {
    const auto before = lists.begin() + static_cast<std::ptrdiff_t>(column);
    if (std::find(lists.begin(), before, lists[column]) == before) {
      columns.place.push_back(column);
      columns.colours.push_back(
          static_cast<std::uint64_t>(std::ranges::count(lists, lists[column])));
    }
  }
  return columns;
}

// One round: every column takes the colour of the bag of its values, each seen together with its
// row, and a row is the bag of its values, each seen together with its column's colour.
Colours recoloured(const Columns& columns, const Colours& colours) {
  Colours sums(columns.size(), 0);
  for (std::size_t first = 0; first < columns.cells.size(); first += columns.stride) {
    std::uint64_t row = 0;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      row += mixed(columns.cells[first + columns.place[i]], colours[i]);
    }
    for (std::size_t i = 0; i < columns.size(); ++i) {
      sums[i] += mixed(columns.cells[first + columns.place[i]], row);
    }
  }
  for (std::size_t i = 0; i < columns.size(); ++i) {
    sums[i] = mixed(colours[i], sums[i]);
  }
  return sums;
}

// Of the bag of rows whose values are seen together with their column's colour. With all colours
// different, equal digests prove the rows equal.
Hash128 coloured_rows(const Columns& columns, const Colours& colours) {
  Hash128 sum;
  for (std::size_t first = 0; first < columns.cells.size(); first += columns.stride) {
    Hash128 row;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const std::uint64_t value = mixed(columns.cells[first + columns.place[i]], colours[i]);
      row.low += value;
      row.high += scrambled(value);
    }
    sum.low += mixed(row.low, row.high);
    sum.high += mixed(row.high, row.low);
  }
  return sum;
}

Colours sorted(Colours colours) {
  std::ranges::sort(colours);
  return colours;
}

std::size_t num_different(const Colours& sorted_colours) {
  std::size_t count = sorted_colours.empty() ? 0 : 1;
  for (std::size_t i = 1; i < sorted_colours.size(); ++i) {
    count += static_cast<std::size_t>(sorted_colours[i] != sorted_colours[i - 1]);
  }
  return count;
}

// The colours of both results' columns; a column of one may only become one of the same colour.
struct Pairing {
  Colours a;
  Colours b;
};

class Search {
 public:
  Search(Columns a, Columns b, std::int64_t budget)
      : a_(std::move(a)), b_(std::move(b)), budget_(budget) {}

  Verdict run() {
    std::vector<Choice> choices;
    std::optional<Pairing> pairing = Pairing{.a = a_.colours, .b = b_.colours};
    bool refined = refine(*pairing);
    spent_ = 0;  // a search without a choice is never given up
    while (true) {
      if (refined) {
        const auto doubtful = first_doubtful(pairing->a);
        if (!doubtful) {
          if (coloured_rows(a_, pairing->a) == coloured_rows(b_, pairing->b)) {
            return Verdict::equal;
          }
        } else {
          choices.push_back({.pairing = std::move(*pairing), .column = *doubtful, .next = 0});
        }
      }
      pairing = next_pairing(choices);
      if (!pairing) {
        return Verdict::different;
      }
      if (spent_ > budget_) {
        return Verdict::undecided;
      }
      refined = refine(*pairing);
    }
  }

 private:
  // Which column of `b` a column of `a` becomes; those before `next` have been tried.
  struct Choice {
    Pairing pairing;
    std::size_t column;
    std::size_t next;
  };

  // Colours until nothing changes; false if the results turn out to differ.
  bool refine(Pairing& pairing) {
    Colours a = sorted(pairing.a);
    if (a != sorted(pairing.b)) {
      return false;
    }
    while (true) {
      const std::size_t before = num_different(a);
      pairing = {.a = recoloured(a_, pairing.a), .b = recoloured(b_, pairing.b)};
      spent_ += 4 * a_.visits();
      a = sorted(pairing.a);
      if (a != sorted(pairing.b)) {
        return false;
      }
      const std::size_t now = num_different(a);
      if (now == a.size() || now == before) {
        return true;
      }
    }
  }

  // The first column whose colour another one has, too.
  static std::optional<std::size_t> first_doubtful(const Colours& colours) {
    for (std::size_t i = 0; i < colours.size(); ++i) {
      if (std::ranges::count(colours, colours[i]) > 1) {
        return i;
      }
    }
    return std::nullopt;
  }

  // The next untried column for the newest choice that has one left.
  static std::optional<Pairing> next_pairing(std::vector<Choice>& choices) {
    while (!choices.empty()) {
      Choice& choice = choices.back();
      const std::uint64_t colour = choice.pairing.a[choice.column];
      while (choice.next < choice.pairing.b.size() && choice.pairing.b[choice.next] != colour) {
        ++choice.next;
      }
      if (choice.next < choice.pairing.b.size()) {
        Pairing pairing = choice.pairing;
        pairing.a[choice.column] = pairing.b[choice.next] = mixed(colour, choices.size());
        ++choice.next;
        return pairing;
      }
      choices.pop_back();
    }
    return std::nullopt;
  }

  Columns a_;
  Columns b_;
  std::int64_t budget_;
  std::int64_t spent_ = 0;
};

}  // namespace

Verdict column_permutation(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b,
                           std::size_t num_columns, std::int64_t budget) {
  if (a.size() != b.size()) {
    return Verdict::different;
  }
  if (num_columns == 0) {
    return Verdict::equal;
  }
  Columns columns_a = columns_of(a, num_columns);
  Columns columns_b = columns_of(b, num_columns);
  if (columns_a.size() != columns_b.size()) {
    return Verdict::different;
  }
  return Search(std::move(columns_a), std::move(columns_b), budget).run();
}

}  // namespace finestep

#include "compare/comparison.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "compare/close_rows.h"
#include "compare/column_match.h"
#include "compare/row_digests.h"
#include "compare/soft_f1.h"
#include "compare/utf8.h"

namespace finestep {
namespace {

using Rows = std::variant<RowSet, RowBag, RowList, CloseRows, ColumnBag, ColumnLists, FirstRows>;

Rows rows_for(const ComparisonSettings& settings) {
  switch (settings.semantics) {
    case Semantics::bird:
      return RowSet();
    case Semantics::multiset:
      return RowBag();
    case Semantics::ordered:
      return RowList();
    case Semantics::test_suite:
      return settings.ordered ? Rows(ColumnLists()) : Rows(ColumnBag());
    case Semantics::soft_f1:
      return FirstRows();
    case Semantics::strict:
      break;
  }
  if (settings.float_tolerance > 0) {
    return CloseRows();
  }
  return settings.ordered ? Rows(RowList()) : Rows(RowBag());
}

template <typename Kept>
constexpr bool kAnyWidth =
    std::is_same_v<Kept, RowSet> || std::is_same_v<Kept, RowBag> || std::is_same_v<Kept, RowList>;

Verdict verdict(bool equal) { return equal ? Verdict::equal : Verdict::different; }

Outcome outcome(Verdict verdict) {
  return {.verdict = verdict, .score = verdict == Verdict::equal ? 1.0 : 0.0};
}

}  // namespace

struct Comparand::State {
  Rows rows;
  bool cleans_text = false;  // text loses the bytes that are no UTF-8
  bool checks_text = true;   // text may be no UTF-8
  bool invalid_utf8 = false;
  std::int64_t num_rows = 0;
  std::size_t num_columns = 0;  // of the row last added

  // A row whose broken text is cleaned; none if there is nothing to clean.
  static std::optional<std::vector<Cell>> cleaned(std::span<const Cell> row,
                                                  std::vector<std::string>& texts) {
    std::optional<std::vector<Cell>> clean;
    texts.reserve(row.size());
    for (std::size_t at = 0; at < row.size(); ++at) {
      if (row[at].kind == CellKind::text && !valid_utf8(row[at].bytes)) {
        if (!clean) {
          clean.emplace(row.begin(), row.end());
        }
        (*clean)[at].bytes = texts.emplace_back(without_invalid_utf8(row[at].bytes));
      }
    }
    return clean;
  }
};

Comparand::Comparand(const ComparisonSettings& settings) : state_(std::make_unique<State>()) {
  state_->rows = rows_for(settings);
  state_->checks_text = !settings.decoded_text;
  state_->cleans_text = settings.semantics == Semantics::test_suite && !settings.decoded_text;
}
Comparand::Comparand(Comparand&&) noexcept = default;
Comparand& Comparand::operator=(Comparand&&) noexcept = default;
Comparand::~Comparand() = default;

void Comparand::add_row(std::span<const Cell> row) {
  State& state = *state_;
  for (const Cell& cell : row) {
    if (cell.kind == CellKind::text && state.checks_text && !state.invalid_utf8) {
      state.invalid_utf8 = !valid_utf8(cell.bytes);
    }
  }
  std::vector<std::string> texts;
  std::optional<std::vector<Cell>> clean;
  if (state.cleans_text && state.invalid_utf8) {
    clean = Comparand::State::cleaned(row, texts);
  }
  std::visit(
      [&](auto& rows) {
        if constexpr (!kAnyWidth<std::remove_cvref_t<decltype(rows)>>) {
          if (state.num_rows > 0 && row.size() != state.num_columns) {
            throw std::invalid_argument("rows differ in width");
          }
        }
        rows.add(clean ? std::span<const Cell>(*clean) : row);
      },
      state.rows);
  ++state.num_rows;
  state.num_columns = row.size();
}

void Comparand::finish() {
  std::visit([](auto& rows) { rows.finish(); }, state_->rows);
}

std::int64_t Comparand::num_rows() const { return state_->num_rows; }

std::size_t Comparand::size_bytes() const {
  return sizeof(State) +
         std::visit([](const auto& rows) { return rows.size_bytes(); }, state_->rows);
}

bool Comparand::invalid_utf8() const { return state_->invalid_utf8; }

Outcome compare(const Comparand& predicted, const Comparand& gold,
                const ComparisonSettings& settings) {
  const auto& ours = predicted.state();
  const auto& theirs = gold.state();
  if (ours.rows.index() != theirs.rows.index() || ours.rows.index() != rows_for(settings).index()) {
    throw std::invalid_argument("results were made ready for different comparisons");
  }
  const bool same_number = ours.num_rows == theirs.num_rows;
  return std::visit(
      [&](const auto& rows) {
        using Kept = std::remove_cvref_t<decltype(rows)>;
        const auto& others = std::get<Kept>(theirs.rows);
        if constexpr (std::is_same_v<Kept, FirstRows>) {
          const double score = rows.score(others);
          return Outcome{.verdict = verdict(score == 1), .score = score};
        } else if constexpr (std::is_same_v<Kept, RowSet>) {
          return outcome(verdict(rows.equals(others)));
        } else if constexpr (std::is_same_v<Kept, ColumnBag>) {
          return outcome(rows.match(others, settings.search_budget));
        } else if constexpr (std::is_same_v<Kept, CloseRows>) {
          return outcome(
              settings.ordered
                  ? verdict(rows.lists_close(others, settings.float_tolerance))
                  : rows.bags_close(others, settings.float_tolerance, settings.search_budget));
        } else {
          return outcome(verdict(same_number && rows.equals(others)));
        }
      },
      ours.rows);
}

bool cannot_equal(const Comparand& partial, const Comparand& gold,
                  const ComparisonSettings& settings) {
  const auto& ours = partial.state();
  const auto& theirs = gold.state();
  if (settings.semantics == Semantics::soft_f1 || ours.num_rows == 0) {
    return false;
  }
  if (const auto* rows = std::get_if<RowSet>(&ours.rows)) {
    return rows->last_is_missing_in(std::get<RowSet>(theirs.rows));
  }
  return ours.num_rows > theirs.num_rows || ours.num_columns != theirs.num_columns;
}

}  // namespace finestep

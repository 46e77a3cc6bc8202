// A libFuzzer target: any bytes are read as settings and two results, which are compared. Besides
// not crashing, verdicts must keep what every definition promises. See FINESTEP_FUZZ in CMake.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "compare/comparison.h"

namespace {

using finestep::Cell;
using finestep::CellKind;
using finestep::Comparand;
using finestep::ComparisonSettings;
using finestep::Semantics;
using finestep::Verdict;
using Table = std::vector<std::vector<Cell>>;

constexpr std::size_t kMaxColumns = 12;
constexpr std::size_t kMaxRows = 64;

// Values come from the fuzzer's bytes; zeros once they are used up.
class Source {
 public:
  explicit Source(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool empty() const { return bytes_.empty(); }

  template <typename Number>
  Number number() {
    Number value{};
    const std::size_t size = std::min(sizeof(Number), bytes_.size());
    std::memcpy(&value, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
    return value;
  }
  std::string_view text(std::size_t size) {
    size = std::min(size, bytes_.size());
    const void* const start = bytes_.data();
    const std::string_view text(static_cast<const char*>(start), size);
    bytes_ = bytes_.subspan(size);
    return text;
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

Cell cell_from(Source& source) {
  const auto what = source.number<std::uint8_t>();
  const int small = what / 8;
  switch (what % 8U) {
    case 0:
      return {};
    case 1:
      return {.kind = CellKind::integer, .integer = small, .bytes = {}};
    case 2:
      return {.kind = CellKind::real, .real = static_cast<double>(small), .bytes = {}};
    case 3:
      return {.kind = CellKind::integer, .integer = source.number<std::int64_t>(), .bytes = {}};
    case 4:
      return {.kind = CellKind::real, .real = source.number<double>(), .bytes = {}};
    case 5:
      return {.kind = CellKind::blob, .bytes = source.text(what / 8U)};
    default:
      return {.kind = CellKind::text, .bytes = source.text(what / 8U)};
  }
}

// Rows of one width; or the rows of `model`, with a column or a row moved and a value replaced.
Table table_from(Source& source, const Table* model) {
  Table table;
  const auto how = source.number<std::uint8_t>();
  if (model != nullptr && how % 4U != 0) {
    table = *model;
    if (!table.empty()) {
      auto& row = table[source.number<std::uint8_t>() % table.size()];
      if (how % 4U == 1 && !row.empty()) {
        row[source.number<std::uint8_t>() % row.size()] = cell_from(source);
      }
      std::swap(table.front(), row);
      const auto column = source.number<std::uint8_t>();
      for (auto& each : table) {
        if (!each.empty()) {
          std::swap(each.front(), each[column % each.size()]);
        }
      }
    }
    return table;
  }
  const std::size_t num_columns = (how / 4U) % (kMaxColumns + 1);
  const std::size_t num_rows = source.number<std::uint8_t>() % (kMaxRows + 1);
  for (std::size_t row = 0; row < num_rows && !source.empty(); ++row) {
    auto& cells = table.emplace_back();
    for (std::size_t column = 0; column < num_columns; ++column) {
      cells.push_back(cell_from(source));
    }
  }
  return table;
}

Comparand ready(const Table& table, const ComparisonSettings& settings) {
  Comparand result(settings);
  for (const auto& row : table) {
    result.add_row(row);
  }
  result.finish();
  return result;
}

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Source source({data, size});
  const auto choice = source.number<std::uint8_t>();
  ComparisonSettings settings{.semantics = static_cast<Semantics>(choice % 6U),
                              .ordered = (choice & 64U) != 0,
                              .search_budget = 100'000,
                              .decoded_text = (choice & 128U) != 0};
  if (settings.semantics == Semantics::strict) {
    settings.float_tolerance = 0.25 * (source.number<std::uint8_t>() % 8U);
  }
  const Table table_a = table_from(source, nullptr);
  const Table table_b = table_from(source, &table_a);
  const Comparand a = ready(table_a, settings);
  const Comparand b = ready(table_b, settings);
  const auto forth = compare(a, b, settings);
  const auto back = compare(b, a, settings);
  const auto same = compare(a, a, settings);
  const bool is_soft = settings.semantics == Semantics::soft_f1;
  const bool has_columns = table_a.empty() || !table_a.front().empty();
  require(forth.score >= 0 && forth.score <= 1 && a.size_bytes() > 0);
  require(is_soft ? !has_columns || same.score == 1 : same.verdict != Verdict::different);
  require(is_soft || forth.verdict == Verdict::undecided || back.verdict == Verdict::undecided ||
          forth.verdict == back.verdict);
  // An early exit never contradicts the verdict.
  Comparand partial(settings);
  for (const auto& row : table_a) {
    partial.add_row(row);
    require(!cannot_equal(partial, b, settings) || forth.verdict != Verdict::equal);
  }
  return 0;
}

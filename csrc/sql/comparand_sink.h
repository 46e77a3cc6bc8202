// The rows of a query on their way into a comparand.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "compare/comparison.h"
#include "sql/query.h"

namespace finestep {

class ComparandSink : public RowSink {
 public:
  // With a gold it needs no more rows once they cannot be equal to it.
  ComparandSink(const ComparisonSettings& settings, const Comparand* gold)
      : settings_(settings), gold_(gold), rows_(settings) {}

  void start(std::span<const std::string> columns) override {
    static_cast<void>(columns);
    if (rows_.num_rows() > 0) {
      rows_ = Comparand(settings_);
      is_settled_ = false;
    }
  }

  bool add_row(std::span<const Cell> row) override {
    rows_.add_row(row);
    // Looking a row up costs as much as adding it: of a large result only some are looked up.
    const bool is_looked_up = rows_.num_rows() <= kAllOfFirst || rows_.num_rows() % kEvery == 0;
    is_settled_ = gold_ != nullptr && is_looked_up && cannot_equal(rows_, *gold_, settings_);
    return !is_settled_;
  }

  // Whether the rows so far rule out that the results are equal.
  [[nodiscard]] bool is_settled() const { return is_settled_; }
  [[nodiscard]] std::int64_t num_rows() const { return rows_.num_rows(); }
  [[nodiscard]] bool invalid_utf8() const { return rows_.invalid_utf8(); }

  Comparand finished() && {
    rows_.finish();
    return std::move(rows_);
  }

 private:
  static constexpr std::int64_t kAllOfFirst = 256;
  static constexpr std::int64_t kEvery = 32;

  ComparisonSettings settings_;
  const Comparand* gold_;
  Comparand rows_;
  bool is_settled_ = false;
};

}  // namespace finestep

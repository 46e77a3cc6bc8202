// Rows of a result kept as they came, for a caller that reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "compare/cell.h"
#include "sql/query.h"

namespace finestep {

class StoredRows : public RowSink {
 public:
  void start(std::span<const std::string> columns) override;
  bool add_row(std::span<const Cell> row) override;
  void clear();

  [[nodiscard]] const std::vector<std::string>& columns() const { return columns_; }
  [[nodiscard]] std::size_t num_rows() const {
    return num_columns_ == 0 ? 0 : cells_.size() / num_columns_;
  }
  [[nodiscard]] std::size_t num_columns() const { return num_columns_; }
  [[nodiscard]] Cell cell(std::size_t row, std::size_t column) const;

 private:
  struct Stored {
    CellKind kind;
    std::uint64_t bits;  // of the number, or where the bytes begin
    std::size_t size;    // number of bytes
  };

  std::vector<std::string> columns_;
  std::size_t num_columns_ = 0;
  std::vector<Stored> cells_;
  std::string bytes_;
};

}  // namespace finestep

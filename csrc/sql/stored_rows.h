// Rows of a result kept as they came, for a caller that reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compare/cell.h"
#include "sql/query.h"

namespace finestep {

// The rows as one string of bytes, so that they go from process to process without being taken
// apart: for each cell its kind, then a number, or a size and so many bytes.
class StoredRows : public RowSink {
 public:
  void start(std::span<const std::string> columns) override;
  bool add_row(std::span<const Cell> row) override;
  void clear();

  [[nodiscard]] const std::vector<std::string>& columns() const { return columns_; }
  [[nodiscard]] std::size_t num_rows() const { return num_rows_; }
  [[nodiscard]] std::size_t num_columns() const { return num_columns_; }
  [[nodiscard]] std::string_view bytes() const { return bytes_; }

 private:
  std::vector<std::string> columns_;
  std::size_t num_rows_ = 0;
  std::size_t num_columns_ = 0;
  std::string bytes_;
};

// Reads the cells of stored rows, one after the other.
class StoredCells {
 public:
  explicit StoredCells(std::string_view bytes) : left_(bytes) {}

  Cell next();

 private:
  std::uint64_t number();
  std::string_view taken(std::size_t size);

  std::string_view left_;
};

}  // namespace finestep

#include "sql/stored_rows.h"

#include <bit>

namespace finestep {

void StoredRows::start(std::span<const std::string> columns) {
  columns_.assign(columns.begin(), columns.end());
  cells_.clear();
  bytes_.clear();
}

bool StoredRows::add_row(std::span<const Cell> row) {
  num_columns_ = row.size();
  for (const Cell& cell : row) {
    Stored stored{.kind = cell.kind, .bits = 0, .size = 0};
    if (cell.kind == CellKind::integer) {
      stored.bits = std::bit_cast<std::uint64_t>(cell.integer);
    } else if (cell.kind == CellKind::real) {
      stored.bits = std::bit_cast<std::uint64_t>(cell.real);
    } else if (cell.kind != CellKind::null) {
      stored.bits = bytes_.size();
      stored.size = cell.bytes.size();
      bytes_.append(cell.bytes);
    }
    cells_.push_back(stored);
  }
  return true;
}

void StoredRows::clear() {
  cells_ = {};
  bytes_ = {};
}

Cell StoredRows::cell(std::size_t row, std::size_t column) const {
  const Stored& stored = cells_[row * num_columns_ + column];
  Cell cell;
  cell.kind = stored.kind;
  if (stored.kind == CellKind::integer) {
    cell.integer = std::bit_cast<std::int64_t>(stored.bits);
  } else if (stored.kind == CellKind::real) {
    cell.real = std::bit_cast<double>(stored.bits);
  } else if (stored.kind != CellKind::null) {
    cell.bytes = std::string_view(bytes_).substr(stored.bits, stored.size);
  }
  return cell;
}

}  // namespace finestep

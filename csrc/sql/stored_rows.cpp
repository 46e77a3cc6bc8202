#include "sql/stored_rows.h"

#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace finestep {
namespace {

using NumberBytes = std::array<char, sizeof(std::uint64_t)>;

void append(std::string& bytes, std::uint64_t number) {
  const auto raw = std::bit_cast<NumberBytes>(number);
  bytes.append(raw.data(), raw.size());
}

}  // namespace

void StoredRows::start(std::span<const std::string> columns) {
  columns_.assign(columns.begin(), columns.end());
  num_rows_ = 0;
  bytes_.clear();
}

bool StoredRows::add_row(std::span<const Cell> row) {
  num_columns_ = row.size();
  for (const Cell& cell : row) {
    bytes_.push_back(static_cast<char>(cell.kind));
    if (cell.kind == CellKind::integer) {
      append(bytes_, std::bit_cast<std::uint64_t>(cell.integer));
    } else if (cell.kind == CellKind::real) {
      append(bytes_, std::bit_cast<std::uint64_t>(cell.real));
    } else if (cell.kind != CellKind::null) {
      append(bytes_, cell.bytes.size());
      bytes_.append(cell.bytes);
    }
  }
  ++num_rows_;
  return true;
}

void StoredRows::clear() {
  num_rows_ = 0;
  bytes_ = {};
}

Cell StoredCells::next() {
  Cell cell;
  cell.kind = static_cast<CellKind>(taken(1).front());
  if (cell.kind == CellKind::integer) {
    cell.integer = std::bit_cast<std::int64_t>(number());
  } else if (cell.kind == CellKind::real) {
    cell.real = std::bit_cast<double>(number());
  } else if (cell.kind != CellKind::null) {
    cell.bytes = taken(number());
  }
  return cell;
}

std::uint64_t StoredCells::number() {
  NumberBytes raw{};
  std::memcpy(raw.data(), taken(raw.size()).data(), raw.size());
  return std::bit_cast<std::uint64_t>(raw);
}

std::string_view StoredCells::taken(std::size_t size) {
  if (size > left_.size()) {
    throw std::runtime_error("stored rows end in the middle of a cell");
  }
  const auto front = left_.substr(0, size);
  left_.remove_prefix(size);
  return front;
}

}  // namespace finestep

// One value of a result row, as SQLite has it.
#pragma once

#include <cstdint>
#include <string_view>

namespace finestep {

enum class CellKind : std::uint8_t { null, integer, real, text, blob };

// Only the field that `kind` names counts; `bytes` is the text (UTF-8, or whatever the database
// holds in its place) or the blob, and belongs to the caller. A real that is NaN counts as NULL.
struct Cell {
  CellKind kind = CellKind::null;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view bytes;
};

}  // namespace finestep

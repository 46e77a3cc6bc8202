// The search for a permutation of columns under which two bags of rows are equal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compare/verdict.h"

namespace finestep {

// `a` and `b` hold equally many hashed values, row by row. Columns are distinguished by what they
// hold in which rows, round by round, as vertices of a graph are coloured; only columns that this
// leaves alike are tried out, which stops after about `budget` visits of a value. Never recursive.
Verdict column_permutation(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b,
                           std::size_t num_columns, std::int64_t budget);

}  // namespace finestep

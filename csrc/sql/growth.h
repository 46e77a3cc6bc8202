// How far the expressions of a query grow while SQLite prepares it, which no deadline can
// interrupt.
#pragma once

#include <cstdint>
#include <span>

#include "sql/tokens.h"

namespace finestep {

// How many terms (names and values) a query may have once SQLite has put it together: it copies a
// column's expression to each place that names the column, so that `SELECT x+x AS x FROM (...)`
// doubles what is inside. Cautious: nothing keeps SQLite from copying here, such as GROUP BY may.
// Counting ends at `enough`, so that the work is at most in proportion to it and to the text. The
// tokens are those of the whole query, without space.
std::int64_t grown_terms(std::span<const SqlToken> tokens, std::int64_t enough);

}  // namespace finestep

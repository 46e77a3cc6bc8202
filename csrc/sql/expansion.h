// How far a query grows while SQLite prepares it, which no deadline can interrupt.
#pragma once

#include <cstdint>
#include <span>

#include "sql/tokens.h"

namespace finestep {

// How many copies of common table expressions a query may expand to while it is prepared. SQLite
// copies the body of an expression at each place that reads it, so a chain of expressions that read
// their predecessor twice grows as a power of two. Saturates far beyond any sensible limit. The
// tokens are those of the whole query, without space.
std::int64_t expanded_ctes(std::span<const SqlToken> tokens);

}  // namespace finestep

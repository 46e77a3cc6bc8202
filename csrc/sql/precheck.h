// What a query's text alone shows, before SQLite sees it: what would keep `prepare` or one
// instruction busy beyond any deadline, and whether a call depends on the time.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "sql/tokens.h"

namespace finestep {

// How many copies of common table expressions a query may expand to while it is prepared. SQLite
// copies the body of an expression at each place that reads it, so a chain of expressions that read
// their predecessor twice grows as a power of two. Saturates far beyond any sensible limit.
std::int64_t expanded_ctes(std::string_view sql);

// Whether every call of printf or format has a literal pattern without '*' and of bounded width.
// Older SQLite spends seconds inside one uninterruptible call on a pattern such as '%.*c'.
bool formats_are_literal(std::string_view sql);

// Whether a call of a date function may read the clock: it names 'now', or no time at all.
// `is_date_function` says which names these are. Cautious: any "now" anywhere in the text counts.
bool reads_clock(std::string_view sql, bool (*is_date_function)(std::string_view));

}  // namespace finestep

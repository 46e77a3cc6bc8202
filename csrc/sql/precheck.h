// What a query's text alone shows of the functions that it calls: whether one would keep SQLite
// busy beyond any deadline, and whether one depends on the time. Tokens are those without space.
#pragma once

#include <span>
#include <string_view>

#include "sql/tokens.h"

namespace finestep {

// Whether every call of printf or format has a literal pattern without '*' and of bounded width.
// Older SQLite spends seconds inside one uninterruptible call on a pattern such as '%.*c'.
bool formats_are_literal(std::span<const SqlToken> tokens);

// Whether a call of a date function may read the clock: it names 'now', or no time at all.
// Cautious: any "now" anywhere in the text counts.
bool reads_clock(std::string_view sql, std::span<const SqlToken> tokens);

}  // namespace finestep

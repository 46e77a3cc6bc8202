// What a statement does, in the words of whoever wrote it.
#pragma once

#include <span>
#include <string>

#include "sql/tokens.h"

namespace finestep {

// The words that say what a statement does: "DROP TABLE", "PRAGMA journal_mode", "SELECT". What a
// WITH or EXPLAIN stands before counts, not these words themselves. Empty if there is no statement.
// The tokens are those of the statement without space.
std::string statement_words(std::span<const SqlToken> tokens);

// The table in a query that SQLite itself would have to make first, such as pragma_page_size; in
// general words where the text does not show which one it is.
std::string made_table(std::span<const SqlToken> tokens);

}  // namespace finestep

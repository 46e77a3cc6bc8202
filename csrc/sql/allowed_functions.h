// Which of SQLite's functions a query may call, and whose values are not the same in every run.
#pragma once

#include <string_view>

namespace finestep {

// Whether a query may call it. Names here are in lower case.
bool is_allowed_function(std::string_view name);

// Whether it computes with dates, and reads the clock where it is given none.
bool is_date_function(std::string_view name);

// Whether its value depends on time or chance whatever it is given.
bool is_random_function(std::string_view name);

}  // namespace finestep

// The pragmas with which a query may look at the schema: they read, whatever they are given.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace finestep {

inline constexpr auto kReadablePragmas = std::to_array<std::string_view>(
    {"foreign_key_list", "index_info", "index_list", "table_info", "table_list", "table_xinfo"});
static_assert(std::ranges::is_sorted(kReadablePragmas));

// What the name of a table begins with that has a pragma's rows.
inline constexpr std::string_view kPragmaTable = "pragma_";

// Names here are in lower case.
constexpr bool is_readable_pragma(std::string_view name) {
  return std::ranges::binary_search(kReadablePragmas, name);
}

constexpr bool is_readable_pragma_table(std::string_view name) {
  return name.starts_with(kPragmaTable) && is_readable_pragma(name.substr(kPragmaTable.size()));
}

}  // namespace finestep

// The test-suite evaluator's unordered row: the values of a row, sorted by str(x) + str(type(x)).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "compare/cell.h"
#include "compare/keyed_hash.h"

namespace finestep {

// What that evaluator sorts a value by, in UTF-8: "2<class 'int'>", "2.0<class 'float'>".
std::string sort_key(const Cell& cell);

// Rows have equal keys exactly if their unordered rows are equal as Python tuples. Sorting makes an
// exception of its own: 2 and 2.0 are equal, but sorted to different places beside 2.5.
struct UnorderedRow {
  std::uint64_t values = 0;  // of the bag of values
  Hash128 warp;  // of their order where it is not the one of the same values as integers; else 0
};

// `hashes`: the hash of each value.
UnorderedRow unordered_row(std::span<const Cell> row, std::span<const std::uint64_t> hashes);

}  // namespace finestep

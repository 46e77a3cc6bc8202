// Finds the steps of a token mask: the maximal runs of sampled tokens in each row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace finestep {

// Half-open spans of flat token positions, ascending; the spans of row r are those with index
// offsets[r] .. offsets[r + 1] - 1. A row without sampled tokens has none.
struct StepSpans {
  std::vector<std::int64_t> start;
  std::vector<std::int64_t> end;
  std::vector<std::int64_t> offsets;
};

// Returns the runs of non-zero bytes of a row-major mask; a run never crosses a row's end.
// `mask` has num_rows * row_length bytes and is read once.
StepSpans step_spans(std::span<const std::uint8_t> mask, std::size_t num_rows,
                     std::size_t row_length, int num_threads);

}  // namespace finestep

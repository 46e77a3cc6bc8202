#include "step_spans.h"

#include <algorithm>
#include <cstring>

namespace finestep {
namespace {

// Index of the first non-zero byte at or after `from`, or bytes.size(); eight bytes at a time.
std::size_t first_set(std::span<const std::uint8_t> bytes, std::size_t from) {
  std::uint64_t word = 0;
  while (from + sizeof(word) <= bytes.size()) {
    std::memcpy(&word, bytes.data() + from, sizeof(word));
    if (word != 0) {
      break;
    }
    from += sizeof(word);
  }
  while (from < bytes.size() && bytes[from] == 0) {
    ++from;
  }
  return from;
}

// Index of the first zero byte at or after `from`, or bytes.size().
std::size_t first_clear(std::span<const std::uint8_t> bytes, std::size_t from) {
  const auto rest = bytes.subspan(from);
  return from + static_cast<std::size_t>(std::ranges::find(rest, std::uint8_t{0}) - rest.begin());
}

}  // namespace

StepSpans step_spans(std::span<const std::uint8_t> mask, std::size_t num_rows,
                     std::size_t row_length) {
  StepSpans spans;
  spans.offsets.reserve(num_rows + 1);
  spans.offsets.push_back(0);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::size_t base = row * row_length;
    const auto tokens = mask.subspan(base, row_length);
    std::size_t begin = first_set(tokens, 0);
    while (begin < row_length) {
      const std::size_t end = first_clear(tokens, begin);
      spans.start.push_back(static_cast<std::int64_t>(base + begin));
      spans.end.push_back(static_cast<std::int64_t>(base + end));
      begin = first_set(tokens, end);
    }
    spans.offsets.push_back(static_cast<std::int64_t>(spans.start.size()));
  }
  return spans;
}

}  // namespace finestep

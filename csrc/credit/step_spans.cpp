#include "credit/step_spans.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "threads/parallel.h"

namespace finestep {
namespace {

using Bits = std::uint64_t;
constexpr std::size_t kBlock = 64;  // bytes whose states fit into one word of bits
constexpr std::size_t kWord = sizeof(Bits);
constexpr std::size_t kBytesPerChunk = 1U << 18U;
constexpr Bits kOnes = 0x0101010101010101U;

Bits word_at(const std::uint8_t* bytes) {
  Bits word = 0;
  std::memcpy(&word, bytes, kWord);
  if constexpr (std::endian::native == std::endian::big) {
    word = __builtin_bswap64(word);
  }
  return word;
}

// Bit i says whether byte i of the word is non-zero.
Bits set_bytes(Bits word) {
  constexpr Bits kLow7 = 0x7fU * kOnes;
  const Bits ones = ((((word & kLow7) + kLow7) | word) >> 7U) & kOnes;
  return (ones * 0x0102040810204080U) >>
         56U;  // gathers the lowest bits of all bytes in the top one
}

// Bit i says whether byte i of the block is non-zero.
Bits set_bytes(const std::uint8_t* block) {
  Bits any = 0;
  Bits all = ~Bits{0};
  for (std::size_t at = 0; at < kBlock; at += kWord) {
    any |= word_at(block + at);
    all &= word_at(block + at);
  }
  if (any == 0) {
    return 0;
  }
  if (all == kOnes) {
    return ~Bits{0};
  }
  Bits bits = 0;
  for (std::size_t at = 0; at < kBlock; at += kWord) {
    bits |= set_bytes(word_at(block + at)) << at;
  }
  return bits;
}

// The same for the last, shorter block of a row.
Bits set_bytes(std::span<const std::uint8_t> rest) {
  Bits bits = 0;
  for (std::size_t at = 0; at < rest.size(); ++at) {
    bits |= static_cast<Bits>(rest[at] != 0) << at;
  }
  return bits;
}

// Appends the runs of one row, whose first byte is number `base` of the mask.
void append_runs(std::span<const std::uint8_t> row, std::size_t base, StepSpans& spans) {
  bool inside = false;
  for (std::size_t at = 0; at < row.size(); at += kBlock) {
    const bool is_whole = at + kBlock <= row.size();
    const Bits bits = is_whole ? set_bytes(row.data() + at) : set_bytes(row.subspan(at));
    // Bit i says whether byte i differs from the one before it.
    Bits change = bits ^ ((bits << 1U) | static_cast<Bits>(inside));
    while (change != 0) {
      const auto place = static_cast<std::size_t>(std::countr_zero(change));
      if (at + place >= row.size()) {
        break;
      }
      (inside ? spans.end : spans.start).push_back(static_cast<std::int64_t>(base + at + place));
      inside = !inside;
      change &= change - 1;
    }
  }
  if (inside) {
    spans.end.push_back(static_cast<std::int64_t>(base + row.size()));
  }
}

}  // namespace

StepSpans step_spans(std::span<const std::uint8_t> mask, std::size_t num_rows,
                     std::size_t row_length, int num_threads) {
  const std::size_t chunk_rows = std::max<std::size_t>(1, kBytesPerChunk / (row_length + 1));
  const auto chunks =
      num_chunks(static_cast<std::int64_t>(num_rows), static_cast<std::int64_t>(chunk_rows));
  StepSpans spans;
  spans.offsets.assign(num_rows + 1, 0);
  std::vector<StepSpans> parts(static_cast<std::size_t>(chunks));
  for_each_chunk(chunks, num_threads, [&](std::int64_t chunk) {
    StepSpans part;  // not the shared one, whose neighbours other threads write to
    const std::size_t first = static_cast<std::size_t>(chunk) * chunk_rows;
    const std::size_t last = std::min(num_rows, first + chunk_rows);
    for (std::size_t row = first; row < last; ++row) {
      const std::size_t base = row * row_length;
      append_runs(mask.subspan(base, row_length), base, part);
      part.offsets.push_back(static_cast<std::int64_t>(part.start.size()));
    }
    parts[static_cast<std::size_t>(chunk)] = std::move(part);
  });

  std::vector<std::size_t> place(parts.size() + 1, 0);
  for (std::size_t part = 0; part < parts.size(); ++part) {
    place[part + 1] = place[part] + parts[part].start.size();
  }
  spans.start.resize(place.back());
  spans.end.resize(place.back());
  for_each_chunk(chunks, num_threads, [&](std::int64_t chunk) {
    const auto c = static_cast<std::size_t>(chunk);
    std::ranges::copy(parts[c].start, spans.start.data() + place[c]);
    std::ranges::copy(parts[c].end, spans.end.data() + place[c]);
    std::int64_t* offset = spans.offsets.data() + (c * chunk_rows) + 1;
    for (const std::int64_t in_part : parts[c].offsets) {
      *offset++ = static_cast<std::int64_t>(place[c]) + in_part;
    }
  });
  return spans;
}

}  // namespace finestep

#include "compare/utf8.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace finestep {
namespace {

constexpr std::size_t kWord = sizeof(std::uint64_t);

bool begins_with_ascii_word(std::string_view bytes) {
  std::uint64_t word = 0;
  if (bytes.size() < kWord) {
    return false;
  }
  std::memcpy(&word, bytes.data(), kWord);
  return (word & 0x8080808080808080U) == 0;
}

// Length of the character that `bytes` begins with; 0 if it begins with none.
std::size_t character_length(std::string_view bytes) {
  const auto byte = [&bytes](std::size_t at) { return static_cast<std::uint8_t>(bytes[at]); };
  const std::uint8_t first = byte(0);
  if (first < 0x80) {
    return 1;
  }
  if (first < 0xc2 || first > 0xf4) {
    return 0;
  }
  std::size_t length = 4;
  if (first < 0xf0) {
    length = first < 0xe0 ? 2 : 3;
  }
  if (bytes.size() < length) {
    return 0;
  }
  // The second byte is where overlong forms, surrogates and what lies beyond U+10FFFF show.
  const std::uint8_t second = byte(1);
  if ((second & 0xc0U) != 0x80U || (first == 0xe0 && second < 0xa0) ||
      (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
      (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  for (std::size_t at = 2; at < length; ++at) {
    if ((byte(at) & 0xc0U) != 0x80U) {
      return 0;
    }
  }
  return length;
}

}  // namespace

bool valid_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    if (begins_with_ascii_word(bytes)) {
      bytes.remove_prefix(kWord);
      continue;
    }
    const std::size_t length = character_length(bytes);
    if (length == 0) {
      return false;
    }
    bytes.remove_prefix(length);
  }
  return true;
}

std::string without_invalid_utf8(std::string_view bytes) {
  std::string kept;
  while (!bytes.empty()) {
    const std::size_t length = character_length(bytes);
    kept.append(bytes.substr(0, length));
    // One byte at a time: the rest of a broken character cannot begin another one.
    bytes.remove_prefix(std::max<std::size_t>(1, length));
  }
  return kept;
}

}  // namespace finestep

#include "compare/keyed_hash.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>

namespace finestep {
namespace {

// What a value begins with, in the lowest four bits of its first word.
enum class Tag : std::uint8_t { null, small, integer, real, text, blob };
constexpr unsigned kTagBits = 4;
constexpr std::int64_t kLowest = -0x0800'0000'0000'0000;  // what fits beside a tag
constexpr std::int64_t kHighest = 0x07ff'ffff'ffff'ffff;

constexpr std::uint64_t tagged(Tag tag, std::uint64_t rest) {
  return (rest << kTagBits) | static_cast<std::uint64_t>(tag);
}

std::array<std::uint64_t, 4> initial_state() {
  std::random_device source;
  const auto word = [&source] {
    return (static_cast<std::uint64_t>(source()) << 32U) | static_cast<std::uint64_t>(source());
  };
  const std::uint64_t k0 = word();
  const std::uint64_t k1 = word();
  return {0x736f6d6570736575U ^ k0, 0x646f72616e646f6dU ^ k1, 0x6c7967656e657261U ^ k0,
          0x7465646279746573U ^ k1};
}

// The state before the first word: the key, drawn when it is first needed.
const std::array<std::uint64_t, 4>& process_state() {
  static const std::array<std::uint64_t, 4> state = initial_state();
  return state;
}

template <typename Word>
std::uint64_t word_at(const char* bytes) {
  Word word{};
  std::memcpy(&word, bytes, sizeof(Word));
  return word;
}

// One to seven bytes in a word; with the length they can be told from all others.
std::uint64_t short_word(std::string_view bytes) {
  const std::size_t size = bytes.size();
  const char* first = bytes.begin();
  if (size >= 4) {
    return (word_at<std::uint32_t>(first) << 32U) | word_at<std::uint32_t>(first + size - 4);
  }
  return (word_at<std::uint8_t>(first) << 16U) | (word_at<std::uint8_t>(first + (size / 2)) << 8U) |
         word_at<std::uint8_t>(first + size - 1);
}

}  // namespace

bool integral(double real, std::int64_t& integer) {
  if (std::isnan(real) || real < -0x1p63 || real >= 0x1p63) {
    return false;
  }
  integer = static_cast<std::int64_t>(real);
  return static_cast<double>(integer) == real;
}

KeyedHash::KeyedHash() : v_(process_state()) {}

void KeyedHash::add(const Cell& cell) {
  std::int64_t integer = cell.integer;
  switch (cell.kind) {
    case CellKind::null:
      add(tagged(Tag::null, 0));
      break;
    case CellKind::real:
      if (std::isnan(cell.real)) {
        add(tagged(Tag::null, 0));
        break;
      }
      if (!integral(cell.real, integer)) {
        add(tagged(Tag::real, 0));
        add(std::bit_cast<std::uint64_t>(cell.real));
        break;
      }
      [[fallthrough]];
    case CellKind::integer:
      if (integer >= kLowest && integer <= kHighest) {
        add(tagged(Tag::small, static_cast<std::uint64_t>(integer)));
      } else {
        add(tagged(Tag::integer, 0));
        add(static_cast<std::uint64_t>(integer));
      }
      break;
    case CellKind::text:
      add(tagged(Tag::text, cell.bytes.size()));
      add_bytes(cell.bytes);
      break;
    case CellKind::blob:
      add(tagged(Tag::blob, cell.bytes.size()));
      add_bytes(cell.bytes);
      break;
  }
}

void KeyedHash::add_bytes(std::string_view bytes) {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  if (bytes.size() < kWord) {
    if (!bytes.empty()) {
      add(short_word(bytes));
    }
    return;
  }
  for (std::size_t at = 0; at + kWord < bytes.size(); at += kWord) {
    add(word_at<std::uint64_t>(bytes.data() + at));
  }
  add(word_at<std::uint64_t>(bytes.data() + bytes.size() - kWord));
}

KeyedHash KeyedHash::ended() const {
  KeyedHash end = *this;
  end.v_[2] ^= 0xffU;
  end.round();
  end.round();
  end.round();
  return end;
}

Hash128 KeyedHash::finish() const {
  const auto end = ended().v_;
  return {.low = end[0] ^ end[1], .high = end[2] ^ end[3]};
}

std::uint64_t KeyedHash::finish64() const {
  const auto end = ended().v_;
  return end[0] ^ end[1] ^ end[2] ^ end[3];
}

}  // namespace finestep

// Hashes of values and rows that cannot be predicted outside this process.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <string_view>

#include "compare/cell.h"

namespace finestep {

struct Hash128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend auto operator<=>(const Hash128&, const Hash128&) = default;
};

// SipHash-1-3 over 64-bit words, under a key that is drawn once per process. Predictions are
// adversarial input: without the key no one can write two results that collide on purpose, nor
// one whose hashes sort badly, and no hash ever leaves the process. Two different rows collide by
// chance with probability 2^-128, two values in their 64-bit hashes with 2^-64.
class KeyedHash {
 public:
  KeyedHash();

  void add(std::uint64_t word) {
    v_[3] ^= word;
    round();
    v_[0] ^= word;
  }
  // Equal under Python's == exactly when the words added are the same: an integer and a real of
  // the same value agree, 0.0 is -0.0, text is never a blob.
  void add(const Cell& cell);
  [[nodiscard]] Hash128 finish() const;
  [[nodiscard]] std::uint64_t finish64() const;

 private:
  void add_bytes(std::string_view bytes);
  void round() {
    v_[0] += v_[1];
    v_[1] = std::rotl(v_[1], 13) ^ v_[0];
    v_[0] = std::rotl(v_[0], 32);
    v_[2] += v_[3];
    v_[3] = std::rotl(v_[3], 16) ^ v_[2];
    v_[0] += v_[3];
    v_[3] = std::rotl(v_[3], 21) ^ v_[0];
    v_[2] += v_[1];
    v_[1] = std::rotl(v_[1], 17) ^ v_[2];
    v_[2] = std::rotl(v_[2], 32);
  }
  [[nodiscard]] KeyedHash ended() const;

  std::array<std::uint64_t, 4> v_;
};

// Whether `real` is the value of a 64-bit integer, which it then writes.
bool integral(double real, std::int64_t& integer);

// Scrambles a word; bijective. For words that already depend on the key.
constexpr std::uint64_t scrambled(std::uint64_t word) {
  word = (word ^ (word >> 32U)) * 0xd6e8feb86659fd93U;
  word = (word ^ (word >> 29U)) * 0xa3aaacdcc5b5bc57U;
  return word ^ (word >> 32U);
}

// Scrambles two words into one.
constexpr std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
  return scrambled(a + (scrambled(b + 0x9e3779b97f4a7c15U) * 0xff51afd7ed558ccdU));
}

}  // namespace finestep

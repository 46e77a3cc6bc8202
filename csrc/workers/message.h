// Messages between a process and its workers: numbers and texts, one after the other.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace finestep {

// Before every message goes its size.
using MessageSize = std::uint64_t;

// A message that ends too early or holds what it must not.
class BrokenMessage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class MessageWriter {
 public:
  MessageWriter() : bytes_(sizeof(MessageSize), '\0') {}

  template <typename Number>
  void put(Number number) {
    static_assert(std::is_arithmetic_v<Number> || std::is_enum_v<Number>);
    const auto raw = std::bit_cast<std::array<char, sizeof(Number)>>(number);
    bytes_.append(raw.data(), raw.size());
  }
  void put_text(std::string_view text) {
    put<std::uint64_t>(text.size());
    bytes_.append(text);
  }
  // The content of another message.
  void put_raw(std::string_view content) { bytes_.append(content); }

  [[nodiscard]] std::size_t size() const { return bytes_.size() - sizeof(MessageSize); }
  // The message behind its size. Nothing may be put into it afterwards.
  const std::string& finished() {
    const auto raw = std::bit_cast<std::array<char, sizeof(MessageSize)>>(MessageSize{size()});
    bytes_.replace(0, raw.size(), raw.data(), raw.size());
    return bytes_;
  }
  void clear() { bytes_.resize(sizeof(MessageSize)); }

 private:
  std::string bytes_;
};

// Reads what a writer put, in the same order. Texts are views into the message.
class MessageReader {
 public:
  explicit MessageReader(std::string_view message) : left_(message) {}

  template <typename Number>
  Number get() {
    std::array<char, sizeof(Number)> raw{};
    std::memcpy(raw.data(), taken(raw.size()).data(), raw.size());
    return std::bit_cast<Number>(raw);
  }
  bool get_flag() { return get<std::uint8_t>() != 0; }
  std::string_view get_text() { return taken(get<std::uint64_t>()); }
  [[nodiscard]] bool is_at_end() const { return left_.empty(); }

 private:
  std::string_view taken(std::size_t size) {
    if (size > left_.size()) {
      throw BrokenMessage("a message ends too early");
    }
    const auto front = left_.substr(0, size);
    left_.remove_prefix(size);
    return front;
  }

  std::string_view left_;
};

}  // namespace finestep

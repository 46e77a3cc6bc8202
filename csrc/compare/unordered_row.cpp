#include "compare/unordered_row.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string_view>
#include <vector>

namespace finestep {
namespace {

std::string_view written(std::span<char> buffer, std::to_chars_result result) {
  return {buffer.data(), static_cast<std::size_t>(result.ptr - buffer.data())};
}

std::string text_of(std::int64_t integer) {
  std::array<char, 24> buffer{};
  return std::string(
      written(buffer, std::to_chars(buffer.data(), buffer.data() + buffer.size(), integer)));
}

// Python's repr of a float: the shortest digits that read back as the same number, with an exponent
// where it is below -4 or above 15.
std::string text_of(double real) {
  if (std::isinf(real)) {
    return real < 0 ? "-inf" : "inf";
  }
  if (std::isnan(real)) {
    return "nan";
  }
  std::array<char, 32> buffer{};
  const std::string_view shortest =
      written(buffer, std::to_chars(buffer.data(), buffer.data() + buffer.size(), std::fabs(real),
                                    std::chars_format::scientific));  // d.dddde+xx
  const std::size_t e = shortest.find('e');
  std::string digits(1, shortest[0]);
  digits.append(shortest.substr(std::min(e, std::size_t{2}), e - std::min(e, std::size_t{2})));
  int exponent = 0;
  std::from_chars(shortest.data() + e + 2, shortest.data() + shortest.size(), exponent);
  exponent = shortest[e + 1] == '-' ? -exponent : exponent;
  std::string text = std::signbit(real) ? "-" : "";
  if (exponent < -4 || exponent > 15) {
    text.append(shortest);
    return text;
  }
  if (exponent < 0) {
    return text.append("0.").append(static_cast<std::size_t>(-exponent) - 1, '0').append(digits);
  }
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() < whole) {
    digits.append(whole - digits.size(), '0');
  }
  text.append(digits, 0, whole).append(".");
  return digits.size() > whole ? text.append(digits, whole) : text.append("0");
}

// Python's repr of bytes.
std::string text_of_blob(std::string_view bytes) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const bool has_single = bytes.find('\'') != std::string_view::npos;
  const char quote = has_single && bytes.find('"') == std::string_view::npos ? '"' : '\'';
  std::string text = "b";
  text.push_back(quote);
  for (const char c : bytes) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (c == quote || c == '\\') {
      text.append({'\\', c});
    } else if (c == '\t' || c == '\n' || c == '\r') {
      constexpr std::string_view kLetters = "tn__r";  // from tab to carriage return
      text.append({'\\', kLetters[byte - 9U]});
    } else if (byte < 0x20 || byte >= 0x7f) {
      text.append({'\\', 'x', kHex[byte >> 4U], kHex[byte & 0xfU]});
    } else {
      text.push_back(c);
    }
  }
  text.push_back(quote);
  return text;
}

// The hashes of a row's values in the order of the sort keys.
std::vector<std::uint64_t> sorted_hashes(std::span<const std::string> keys,
                                         std::span<const std::uint64_t> hashes) {
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&keys](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  std::vector<std::uint64_t> sorted;
  sorted.reserve(order.size());
  for (const std::size_t at : order) {
    sorted.push_back(hashes[at]);
  }
  return sorted;
}

}  // namespace

std::string sort_key(const Cell& cell) {
  switch (cell.kind) {
    case CellKind::null:
      break;
    case CellKind::integer:
      return text_of(cell.integer) + "<class 'int'>";
    case CellKind::real:
      return text_of(cell.real) + "<class 'float'>";
    case CellKind::text:
      return std::string(cell.bytes) + "<class 'str'>";
    case CellKind::blob:
      return text_of_blob(cell.bytes) + "<class 'bytes'>";
  }
  return "None<class 'NoneType'>";
}

UnorderedRow unordered_row(std::span<const Cell> row, std::span<const std::uint64_t> hashes) {
  UnorderedRow key;
  for (const std::uint64_t hash : hashes) {
    key.values += hash;
  }
  // Only a real that equals an integer is sorted otherwise than the value it is equal to.
  std::int64_t integer = 0;
  const auto is_integral = [&integer](const Cell& cell) {
    return cell.kind == CellKind::real && integral(cell.real, integer);
  };
  if (row.size() < 2 || std::ranges::none_of(row, is_integral)) {
    return key;
  }
  std::vector<std::string> keys;
  std::vector<std::string> integer_keys;
  for (const Cell& cell : row) {
    keys.push_back(sort_key(cell));
    integer_keys.push_back(
        is_integral(cell) ? sort_key({.kind = CellKind::integer, .integer = integer, .bytes = {}})
                          : keys.back());
  }
  const auto sorted = sorted_hashes(keys, hashes);
  if (sorted != sorted_hashes(integer_keys, hashes)) {
    KeyedHash order;
    for (const std::uint64_t hash : sorted) {
      order.add(hash);
    }
    key.warp = order.finish();
  }
  return key;
}

}  // namespace finestep

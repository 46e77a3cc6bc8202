#include "sql/precheck.h"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "sql/allowed_functions.h"

namespace finestep {
namespace {

constexpr std::size_t kHexPrefix = 2;  // of x'..' and 0x..

bool is_letter(char c) { return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z'); }

// Whether a conversion such as %5.2f stands in a pattern with a width of '*' or of five digits.
bool has_unbounded_width(std::string_view pattern) {
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%') {
      continue;
    }
    int digits = 0;
    for (std::size_t j = i + 1; j < pattern.size(); ++j) {
      const char c = pattern[j];
      if (c == '%' || is_letter(c)) {
        break;
      }
      if (c == '\0') {  // of a BLOB that SQLite reads as UTF-16
        continue;
      }
      digits = '0' <= c && c <= '9' ? digits + 1 : 0;
      if (c == '*' || digits == 5) {
        return true;
      }
    }
  }
  return false;
}

// A whole number in digits of a base; nothing where that is not all of the text.
template <typename Number>
std::optional<Number> whole_number(std::string_view digits, int base) {
  Number value{};
  const auto* const end = std::to_address(digits.end());
  const auto [rest, error] = std::from_chars(std::to_address(digits.begin()), end, value, base);
  return error == std::errc() && rest == end ? std::optional(value) : std::nullopt;
}

// What a string written as 'it''s' holds.
std::string string_text(std::string_view token) {
  std::string text;
  for (std::size_t i = 1; i + 1 < token.size(); ++i) {
    text.push_back(token[i]);
    i += token[i] == '\'' ? 1 : 0;
  }
  return text;
}

// What a BLOB written as x'2564' holds.
std::optional<std::string> blob_text(std::string_view token) {
  std::string text;
  const std::string_view digits = token.substr(kHexPrefix);  // and a quote
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    const auto byte = whole_number<std::uint8_t>(digits.substr(i, 2), 16);
    if (!byte) {
      return std::nullopt;
    }
    text.push_back(static_cast<char>(*byte));
  }
  return text;
}

// What SQLite reads where a literal is used as text; nothing if the token is no literal, or one of
// which the text is not plain to see.
std::optional<std::string> literal_text(const SqlToken& token) {
  if (token.kind == TokenKind::string) {
    return token.text.front() == '\'' ? string_text(token.text) : blob_text(token.text);
  }
  if (token.kind != TokenKind::number) {
    return std::nullopt;
  }
  if (lower(token.text).starts_with("0x")) {
    const auto bits = whole_number<std::uint64_t>(token.text.substr(kHexPrefix), 16);
    return bits ? std::optional(std::to_string(static_cast<std::int64_t>(*bits))) : std::nullopt;
  }
  const auto value = whole_number<std::int64_t>(token.text, 10);
  return value ? std::optional(std::to_string(*value)) : std::nullopt;
}

// The pattern that begins at token i: a literal, or several that || joins, and then the argument
// ends. Nothing if it is anything else.
std::optional<std::string> literal_pattern(std::span<const SqlToken> tokens, std::size_t i) {
  std::string pattern;
  for (; i + 1 < tokens.size(); i += 2) {
    const auto text = literal_text(tokens[i]);
    const std::string_view after = tokens[i + 1].text;
    if (!text || (after != "," && after != ")" && after != "||")) {
      return std::nullopt;
    }
    pattern += *text;
    if (after != "||") {
      return pattern;
    }
  }
  return std::nullopt;
}

// A parenthesis that is open while tokens are read in turn.
struct Opened {
  std::string name;  // the word before it
  bool has_comma = false;
};

}  // namespace

bool formats_are_literal(std::span<const SqlToken> tokens) {
  for (std::size_t i = 0; i + 2 < tokens.size(); ++i) {
    if (!tokens[i].is_name() || tokens[i + 1].text != "(") {
      continue;
    }
    const std::string name = folded(tokens[i]);
    if (name != "printf" && name != "format") {
      continue;
    }
    const auto pattern = literal_pattern(tokens, i + 2);
    if (!pattern || has_unbounded_width(*pattern)) {
      return false;
    }
  }
  return true;
}

bool reads_clock(std::string_view sql, std::span<const SqlToken> tokens) {
  const std::string text = lower(sql);
  if (text.find("now") != std::string::npos || text.find("subsec") != std::string::npos) {
    return true;
  }
  std::vector<Opened> opened;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].text == "(") {
      const bool is_named = i > 0 && tokens[i - 1].is_name();
      opened.push_back({.name = is_named ? folded(tokens[i - 1]) : std::string()});
    } else if (tokens[i].text == "," && !opened.empty()) {
      opened.back().has_comma = true;
    } else if (tokens[i].text == ")" && !opened.empty()) {
      const Opened& closed = opened.back();
      const bool is_empty = tokens[i - 1].text == "(";
      const bool names_no_time = is_empty || (closed.name == "strftime" && !closed.has_comma);
      if (names_no_time && is_date_function(closed.name)) {
        return true;
      }
      opened.pop_back();
    }
  }
  return false;
}

}  // namespace finestep

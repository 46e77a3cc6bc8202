#include "sql/precheck.h"

#include <cstddef>
#include <string>
#include <vector>

#include "sql/allowed_functions.h"

namespace finestep {
namespace {

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
      digits = '0' <= c && c <= '9' ? digits + 1 : 0;
      if (c == '*' || digits == 5) {
        return true;
      }
    }
  }
  return false;
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
    const SqlToken& pattern = tokens[i + 2];
    if (pattern.kind != TokenKind::string || has_unbounded_width(pattern.text)) {
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

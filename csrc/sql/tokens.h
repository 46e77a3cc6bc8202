// Cutting SQL into tokens: quotes, comments, words, numbers and the depth of parentheses, no
// grammar.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace finestep {

enum class TokenKind : std::uint8_t { space, string, quoted, word, number, mark };

// One token as written, and how many parentheses are open around it. Comments are space.
struct SqlToken {
  TokenKind kind;
  std::string_view text;
  int depth;

  [[nodiscard]] bool is_name() const {
    return kind == TokenKind::word || kind == TokenKind::quoted;
  }
};

// All tokens of a text, space included; never fails. The tokens point into the text.
std::vector<SqlToken> sql_tokens(std::string_view sql);

// The tokens that are no space.
std::vector<SqlToken> sql_tokens_without_space(std::string_view sql);

// The text in the form in which SQLite compares it: names and words in lower case, without quotes.
std::string folded(const SqlToken& token);

// ASCII letters in lower case.
std::string lower(std::string_view text);

}  // namespace finestep

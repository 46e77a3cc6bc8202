// Cutting SQL into tokens: quotes, comments, words, numbers and the depth of parentheses, no
// grammar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
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
  // SQLite takes a string for a name where one is expected, as in FROM 'a'.
  [[nodiscard]] bool may_name() const { return is_name() || text.starts_with('\''); }
};

// All tokens of a text, space included; never fails. The tokens point into the text.
std::vector<SqlToken> sql_tokens(std::string_view sql);

// The tokens that are no space.
std::vector<SqlToken> sql_tokens_without_space(std::string_view sql);

// The text in the form in which SQLite compares it: names and words in lower case, without quotes.
std::string folded(const SqlToken& token);

// As `folded`, but of a string what it would name.
std::string named_by(const SqlToken& token);

// The place of the parenthesis that closes the one at a place; the number of tokens for all else.
std::vector<std::size_t> closing_parentheses(std::span<const SqlToken> tokens);

// ASCII letters in lower case.
std::string lower(std::string_view text);

}  // namespace finestep

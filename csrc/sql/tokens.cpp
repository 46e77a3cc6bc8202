#include "sql/tokens.h"

#include <algorithm>
#include <cstddef>

namespace finestep {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; }
bool is_digit(char c) { return '0' <= c && c <= '9'; }
bool starts_word(char c) {
  return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool continues_word(char c) { return starts_word(c) || is_digit(c) || c == '$'; }

char lower_char(char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Where the quoted text ends that opens at `start`; a doubled quote does not end it.
std::size_t quote_end(std::string_view sql, std::size_t start, char close) {
  for (std::size_t i = start + 1; i < sql.size(); ++i) {
    if (sql[i] != close) {
      continue;
    }
    if (close == ']' || i + 1 >= sql.size() || sql[i + 1] != close) {
      return i + 1;
    }
    ++i;
  }
  return sql.size();
}

std::size_t end_while(std::string_view sql, std::size_t i, bool (*holds)(char)) {
  while (i < sql.size() && holds(sql[i])) {
    ++i;
  }
  return i;
}

struct Cut {
  TokenKind kind;
  std::size_t end;
};

Cut space_cut(std::string_view sql, std::size_t i) {
  const std::string_view rest = sql.substr(i);
  if (is_space(rest[0])) {
    return {.kind = TokenKind::space, .end = end_while(sql, i, is_space)};
  }
  const bool is_line = rest.starts_with("--");
  if (is_line || rest.starts_with("/*")) {
    const auto end = is_line ? sql.find('\n', i) : sql.find("*/", i + 2);
    const std::size_t past = is_line ? 0 : 2;
    return {.kind = TokenKind::space,
            .end = end == std::string_view::npos ? sql.size() : end + past};
  }
  return {.kind = TokenKind::space, .end = i};
}

Cut next_cut(std::string_view sql, std::size_t i) {
  if (const Cut space = space_cut(sql, i); space.end > i) {
    return space;
  }
  const std::string_view rest = sql.substr(i);
  const char c = rest[0];
  const char after = rest.size() > 1 ? rest[1] : '\0';
  if (c == '\'') {
    return {.kind = TokenKind::string, .end = quote_end(sql, i, '\'')};
  }
  if ((c == 'x' || c == 'X') && after == '\'') {
    return {.kind = TokenKind::string, .end = quote_end(sql, i + 1, '\'')};
  }
  if (c == '"' || c == '`' || c == '[') {
    return {.kind = TokenKind::quoted, .end = quote_end(sql, i, c == '[' ? ']' : c)};
  }
  if (starts_word(c)) {
    return {.kind = TokenKind::word, .end = end_while(sql, i, continues_word)};
  }
  if (is_digit(c) || (c == '.' && is_digit(after))) {
    return {.kind = TokenKind::number,
            .end = end_while(sql, i + 1, [](char d) { return continues_word(d) || d == '.'; })};
  }
  const std::string_view pair = rest.substr(0, 2);
  const bool is_pair = pair == "<>" || pair == "||" ||
                       (after == '=' && (c == '<' || c == '>' || c == '!' || c == '='));
  return {.kind = TokenKind::mark, .end = i + (is_pair ? 2 : 1)};
}

}  // namespace

std::vector<SqlToken> sql_tokens(std::string_view sql) {
  std::vector<SqlToken> tokens;
  int depth = 0;
  for (std::size_t i = 0; i < sql.size();) {
    const Cut cut = next_cut(sql, i);
    const std::string_view text = sql.substr(i, cut.end - i);
    if (text == ")") {
      depth = std::max(0, depth - 1);
    }
    tokens.push_back({.kind = cut.kind, .text = text, .depth = depth});
    if (text == "(") {
      ++depth;
    }
    i = cut.end;
  }
  return tokens;
}

std::vector<SqlToken> sql_tokens_without_space(std::string_view sql) {
  auto tokens = sql_tokens(sql);
  std::erase_if(tokens, [](const SqlToken& token) { return token.kind == TokenKind::space; });
  return tokens;
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), lower_char);
  return result;
}

std::string folded(const SqlToken& token) {
  if (token.kind == TokenKind::string) {
    return std::string(token.text);
  }
  if (token.kind != TokenKind::quoted) {
    return lower(token.text);
  }
  const char close = token.text.front() == '[' ? ']' : token.text.front();
  auto inner = token.text.substr(1);
  if (!inner.empty() && inner.back() == close) {
    inner.remove_suffix(1);
  }
  std::string name;
  for (std::size_t i = 0; i < inner.size(); ++i) {
    name.push_back(lower_char(inner[i]));
    if (inner[i] == close && close != ']' && i + 1 < inner.size() && inner[i + 1] == close) {
      ++i;
    }
  }
  return name;
}

std::string named_by(const SqlToken& token) {
  if (!token.may_name()) {
    return folded(token);
  }
  const bool is_string = token.kind == TokenKind::string;
  return folded({.kind = is_string ? TokenKind::quoted : token.kind,
                 .text = token.text,
                 .depth = token.depth});
}

std::vector<std::size_t> closing_parentheses(std::span<const SqlToken> tokens) {
  std::vector<std::size_t> closing(tokens.size(), tokens.size());
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].text == "(") {
      open.push_back(i);
    } else if (tokens[i].text == ")" && !open.empty()) {
      closing[open.back()] = i;
      open.pop_back();
    }
  }
  return closing;
}

}  // namespace finestep

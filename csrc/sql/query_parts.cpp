#include "sql/query_parts.h"

#include <algorithm>

namespace finestep {

QueryParts::QueryParts(std::span<const SqlToken> tokens)
    : tokens_(tokens), closing_(closing_parentheses(tokens)) {
  for (const SqlToken& token : tokens) {
    words_.push_back(named_by(token));
  }
}

bool QueryParts::is_word(std::size_t i, std::string_view word) const {
  return i < tokens_.size() && tokens_[i].kind == TokenKind::word && words_[i] == word;
}
bool QueryParts::is_one_of(std::size_t i, std::initializer_list<std::string_view> words) const {
  return std::ranges::any_of(words, [&](std::string_view word) { return is_word(i, word); });
}
bool QueryParts::is_mark(std::size_t i, std::string_view mark) const {
  return i < tokens_.size() && tokens_[i].text == mark;
}
std::size_t QueryParts::after(std::size_t i, std::size_t end) const {
  return std::min(is_mark(i, "(") ? closing_[i] + 1 : i + 1, end);
}
Part QueryParts::inside(std::size_t i, std::size_t end) const {
  return {.begin = i + 1, .end = std::min(closing_[i], end)};
}

std::vector<Part> QueryParts::split_at_commas(Part part) const {
  std::vector<Part> parts;
  std::size_t begin = part.begin;
  for (std::size_t i = part.begin; i < part.end; i = after(i, part.end)) {
    if (is_mark(i, ",")) {
      parts.push_back({.begin = begin, .end = i});
      begin = i + 1;
    }
  }
  parts.push_back({.begin = begin, .end = part.end});
  return parts;
}

std::optional<std::size_t> QueryParts::alias_of(Part item) const {
  if (item.begin + 1 >= item.end || !tokens_[item.end - 1].may_name() ||
      is_word(item.end - 1, "end")) {
    return std::nullopt;
  }
  const std::size_t before = item.end - 2;
  const bool ends_value =
      tokens_[before].kind == TokenKind::word
          ? is_mark(before - 1, ".") ||
                !is_one_of(before, {"and", "between", "collate", "escape", "glob", "in", "is",
                                    "like", "match", "not", "or", "regexp"})
          : is_mark(before, ")") || tokens_[before].kind != TokenKind::mark;
  return ends_value ? std::optional(item.end - 1) : std::nullopt;
}

}  // namespace finestep

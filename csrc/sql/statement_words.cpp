#include "sql/statement_words.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "sql/readable_pragmas.h"

namespace finestep {
namespace {

constexpr auto kCreated = std::to_array<std::string_view>({"index", "table", "trigger", "view"});
constexpr auto kAfterWith =
    std::to_array<std::string_view>({"delete", "insert", "replace", "select", "update", "values"});
// Beside those that read a pragma; where SQLite was built with them.
constexpr auto kMadeTables = std::to_array<std::string_view>(
    {"bytecode", "fts3tokenize", "sqlite_dbpage", "sqlite_stmt", "tables_used"});

bool is_word(const SqlToken& token, std::string_view lower_word) {
  return token.kind == TokenKind::word && lower(token.text) == lower_word;
}

bool is_one_of(const SqlToken& token, std::span<const std::string_view> sorted) {
  return token.kind == TokenKind::word && std::ranges::binary_search(sorted, lower(token.text));
}

std::string upper(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](char c) {
    return 'a' <= c && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  return result;
}

// "CREATE TEMP TABLE": all words up to the kind of what is created or dropped.
std::string definition_words(std::span<const SqlToken> tokens) {
  std::string words;
  for (const SqlToken& token : tokens.first(std::min<std::size_t>(tokens.size(), 3))) {
    words += (words.empty() ? "" : " ") + upper(token.text);
    if (is_one_of(token, kCreated)) {
      return words;
    }
  }
  return upper(tokens.front().text);
}

// "PRAGMA table_info", also for PRAGMA main.table_info(t).
std::string pragma_words(std::span<const SqlToken> tokens) {
  const std::size_t name = tokens.size() > 3 && tokens[2].text == "." ? 3 : 1;
  return name < tokens.size() ? "PRAGMA " + folded(tokens[name]) : "PRAGMA";
}

}  // namespace

std::string statement_words(std::span<const SqlToken> tokens) {
  std::size_t i = 0;
  const auto next_is = [&](std::string_view word) {
    return i < tokens.size() && is_word(tokens[i], word);
  };
  while (i < tokens.size() && tokens[i].text == ";") {
    ++i;
  }
  if (next_is("explain")) {
    ++i;
    i += next_is("query") ? 2 : 0;
  }
  if (next_is("with")) {
    while (i < tokens.size() && (tokens[i].depth > 0 || !is_one_of(tokens[i], kAfterWith))) {
      ++i;
    }
  }
  if (i >= tokens.size()) {
    return {};
  }
  if (next_is("create") || next_is("drop") || next_is("alter")) {
    return definition_words(tokens.subspan(i));
  }
  return next_is("pragma") ? pragma_words(tokens.subspan(i)) : upper(tokens[i].text);
}

std::string made_table(std::span<const SqlToken> tokens) {
  for (const SqlToken& token : tokens) {
    if (!token.is_name()) {
      continue;
    }
    std::string name = folded(token);
    const bool is_pragma = name.starts_with(kPragmaTable) && !is_readable_pragma_table(name);
    if (is_pragma || std::ranges::binary_search(kMadeTables, name)) {
      return name;
    }
  }
  return "a table that SQLite makes for the query";
}

}  // namespace finestep

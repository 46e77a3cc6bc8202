#include "sql/spider_query.h"

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "sql/tokens.h"

namespace finestep {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kSplitOperators{
    {{"> =", ">="}, {"< =", "<="}, {"! =", "!="}}};

std::string with_joined_operators(std::string text) {
  for (const auto& [split, joined] : kSplitOperators) {
    std::string result;
    std::size_t rest = 0;
    for (auto at = text.find(split); at != std::string::npos; at = text.find(split, rest)) {
      result.append(text, rest, at - rest).append(joined);
      rest = at + split.size();
    }
    text = result.append(text, rest);
  }
  return text;
}

// Where the call YEAR(CURDATE()) ends that token i begins, with the space after it; i if there is
// none.
std::size_t current_year_end(const std::vector<SqlToken>& tokens, std::size_t i) {
  std::size_t j = i;
  for (const std::string_view wanted : {"year", "(", "curdate", "(", ")", ")"}) {
    while (j > i && j < tokens.size() && tokens[j].kind == TokenKind::space) {
      ++j;
    }
    if (j >= tokens.size() || lower(tokens[j].text) != wanted) {
      return i;
    }
    ++j;
  }
  while (j < tokens.size() && tokens[j].kind == TokenKind::space) {
    ++j;
  }
  return j;
}

}  // namespace

SpiderQuery spider_query(std::string_view sql, bool keep_distinct) {
  const std::string text = with_joined_operators(std::string(sql));
  const auto tokens = sql_tokens(text);
  SpiderQuery query;
  std::string& kept = query.text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (const std::size_t end = current_year_end(tokens, i); end != i) {
      kept += "2020";
      i = end - 1;
      continue;
    }
    const bool is_distinct =
        tokens[i].kind == TokenKind::word && lower(tokens[i].text) == "distinct";
    if (keep_distinct || !is_distinct) {
      kept += tokens[i].text;
    } else {
      query.drops_distinct = true;
    }
    if (!keep_distinct && tokens[i].text == ";" && tokens[i].depth == 0) {
      break;
    }
  }
  return query;
}

}  // namespace finestep

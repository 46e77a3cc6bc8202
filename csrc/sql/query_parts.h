// A query's tokens and its parts: what stands in parentheses, between commas, behind a name.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sql/tokens.h"

namespace finestep {

// Half open: places of tokens.
struct Part {
  std::size_t begin;
  std::size_t end;
};

// Questions about a place past the end are answered with no.
class QueryParts {
 public:
  explicit QueryParts(std::span<const SqlToken> tokens);

  [[nodiscard]] std::size_t size() const { return tokens_.size(); }
  [[nodiscard]] const SqlToken& token(std::size_t i) const { return tokens_[i]; }
  // The token as SQLite compares names.
  [[nodiscard]] const std::string& word(std::size_t i) const { return words_[i]; }
  [[nodiscard]] bool is_word(std::size_t i, std::string_view word) const;
  [[nodiscard]] bool is_one_of(std::size_t i, std::initializer_list<std::string_view> words) const;
  [[nodiscard]] bool is_mark(std::size_t i, std::string_view mark) const;
  [[nodiscard]] bool starts_query(std::size_t i) const {
    return is_one_of(i, {"select", "with", "values"});
  }
  // The place after a token, or after the parentheses that it opens; at most `end`.
  [[nodiscard]] std::size_t after(std::size_t i, std::size_t end) const;
  // The same, but it steps over parentheses only where they hold a query.
  [[nodiscard]] std::size_t after_query(std::size_t i, std::size_t end) const {
    return starts_query(i + 1) ? after(i, end) : i + 1;
  }
  // What stands in the parentheses that a token opens, up to `end`.
  [[nodiscard]] Part inside(std::size_t i, std::size_t end) const;
  [[nodiscard]] std::vector<Part> split_at_commas(Part part) const;
  // Where the name stands that a SELECT gives to one of its columns.
  [[nodiscard]] std::optional<std::size_t> alias_of(Part item) const;

 private:
  std::span<const SqlToken> tokens_;
  std::vector<std::string> words_;
  std::vector<std::size_t> closing_;  // of an opening parenthesis; the number of tokens if none
};

}  // namespace finestep

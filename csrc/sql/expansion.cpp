#include "sql/expansion.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace finestep {
namespace {

constexpr std::int64_t kSaturation = 1'000'000'000'000;

// Half open: the tokens of one common table expression's body, and what it reads itself. What an
// expression inside it reads belongs to that one.
struct Body {
  std::size_t begin;
  std::size_t end;
  std::vector<std::size_t> reads;  // names
};

bool starts_query(const std::string& word) {
  return word == "select" || word == "with" || word == "values";
}

// A query's tokens with what is looked up repeatedly.
class Expressions {
 public:
  explicit Expressions(std::span<const SqlToken> tokens)
      : tokens_(tokens),
        closing_(closing_parentheses(tokens)),
        opening_(tokens.size(), tokens.size()) {
    for (const SqlToken& token : tokens_) {
      folded_.push_back(named_by(token));
    }
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (closing_[i] < tokens_.size()) {
        opening_[closing_[i]] = i;
      }
    }
    find_bodies();
    find_reads();
  }

  std::int64_t expanded() {
    std::int64_t total = 0;
    for (const std::size_t name : outer_reads_) {
      total = std::min(kSaturation, total + size(name));
    }
    return total;
  }

 private:
  // Where the parenthesis opens that holds a query, if that is what the AS at token i defines.
  std::optional<std::size_t> body_after(std::size_t i) const {
    std::size_t j = i + 1;
    while (j < tokens_.size() && (folded_[j] == "not" || folded_[j] == "materialized")) {
      ++j;
    }
    const bool opens =
        j + 1 < tokens_.size() && tokens_[j].text == "(" && starts_query(folded_[j + 1]);
    return opens ? std::optional(j) : std::nullopt;
  }

  // Where the name stands that the AS at token i defines, stepping over a list of columns.
  std::optional<std::size_t> name_before(std::size_t i) const {
    if (i == 0) {
      return std::nullopt;
    }
    std::size_t j = i - 1;
    if (tokens_[j].text == ")") {
      if (opening_[j] == tokens_.size() || opening_[j] == 0) {
        return std::nullopt;
      }
      j = opening_[j] - 1;
    }
    return tokens_[j].may_name() ? std::optional(j) : std::nullopt;
  }

  void find_bodies() {
    defines_.assign(tokens_.size(), false);
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].kind != TokenKind::word || folded_[i] != "as") {
        continue;
      }
      const auto body = body_after(i);
      const auto name = name_before(i);
      if (body && name) {
        const auto entry = name_ids_.try_emplace(folded_[*name], bodies_of_name_.size()).first;
        bodies_of_name_.resize(name_ids_.size());
        bodies_of_name_[entry->second].push_back(bodies_.size());
        bodies_.push_back({.begin = *body + 1, .end = closing_[*body], .reads = {}});
        defines_[*name] = true;
      }
    }
    sizes_.assign(name_ids_.size(), 0);
    is_above_.assign(name_ids_.size(), false);
  }

  // The places where a table is read that is such an expression, as far as tokens show it.
  void find_reads() {
    std::vector<std::size_t> around;  // bodies, the innermost last
    std::size_t next = 0;
    for (std::size_t i = 1; i < tokens_.size(); ++i) {
      while (!around.empty() && bodies_[around.back()].end <= i) {
        around.pop_back();
      }
      if (next < bodies_.size() && bodies_[next].begin == i) {
        around.push_back(next++);
      }
      const bool qualifies = i + 1 < tokens_.size() && tokens_[i + 1].text == ".";
      if (defines_[i] || qualifies || !tokens_[i].may_name()) {
        continue;
      }
      const std::string& before = folded_[i - 1];
      if (before != "from" && before != "join" && before != "in" && before != "," &&
          before != "(") {
        continue;
      }
      if (const auto found = name_ids_.find(folded_[i]); found != name_ids_.end()) {
        auto& reads = around.empty() ? outer_reads_ : bodies_[around.back()].reads;
        reads.push_back(found->second);
      }
    }
  }

  // Copies that one read of an expression makes, itself included; a cycle counts once.
  // NOLINTNEXTLINE(misc-no-recursion): as deep as names are chained, bounded by the SQL's length.
  std::int64_t size(std::size_t name) {
    if (is_above_[name]) {
      return 1;
    }
    if (sizes_[name] == 0) {
      is_above_[name] = true;
      std::int64_t total = 1;
      for (const std::size_t body : bodies_of_name_[name]) {
        for (const std::size_t read : bodies_[body].reads) {
          total = std::min(kSaturation, total + size(read));
        }
      }
      sizes_[name] = total;
      is_above_[name] = false;
    }
    return sizes_[name];
  }

  std::span<const SqlToken> tokens_;
  std::vector<std::size_t> closing_;  // of an opening parenthesis; the number of tokens if none
  std::vector<std::size_t> opening_;  // the other way round
  std::vector<std::string> folded_;
  std::unordered_map<std::string, std::size_t> name_ids_;
  std::vector<Body> bodies_;  // in the order of their beginnings
  std::vector<std::vector<std::size_t>> bodies_of_name_;
  std::vector<bool> defines_;
  std::vector<std::size_t> outer_reads_;  // outside every body
  std::vector<std::int64_t> sizes_;
  std::vector<bool> is_above_;
};

}  // namespace

std::int64_t expanded_ctes(std::span<const SqlToken> tokens) {
  return Expressions(tokens).expanded();
}

}  // namespace finestep

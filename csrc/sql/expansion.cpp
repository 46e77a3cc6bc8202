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

// Half open: the tokens of one common table expression's body.
struct Body {
  std::size_t begin;
  std::size_t end;
};

bool starts_query(const std::string& word) {
  return word == "select" || word == "with" || word == "values";
}

// A query's tokens with what is looked up repeatedly.
class Expressions {
 public:
  explicit Expressions(std::span<const SqlToken> tokens) : tokens_(tokens) {
    for (const SqlToken& token : tokens_) {
      folded_.push_back(folded(token));
    }
    match_parentheses();
    find_bodies();
    find_reads();
  }

  std::int64_t expanded() {
    std::int64_t total = 0;
    std::size_t inside_until = 0;
    std::vector<Body> spans;
    for (const auto& named : bodies_) {
      spans.insert(spans.end(), named.begin(), named.end());
    }
    std::ranges::sort(spans, {}, &Body::begin);
    std::size_t next = 0;
    for (const Read& read : reads_) {
      for (; next < spans.size() && spans[next].begin <= read.place; ++next) {
        inside_until = std::max(inside_until, spans[next].end);
      }
      if (read.place >= inside_until) {
        total = std::min(kSaturation, total + size(read.name));
      }
    }
    return total;
  }

 private:
  struct Read {
    std::size_t place;
    std::size_t name;
  };

  void match_parentheses() {
    closing_.assign(tokens_.size(), tokens_.size());
    opening_.assign(tokens_.size(), tokens_.size());
    std::vector<std::size_t> open;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].text == "(") {
        open.push_back(i);
      } else if (tokens_[i].text == ")" && !open.empty()) {
        closing_[open.back()] = i;
        opening_[i] = open.back();
        open.pop_back();
      }
    }
  }

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
    return tokens_[j].is_name() ? std::optional(j) : std::nullopt;
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
        const auto [entry, is_new] = name_ids_.try_emplace(folded_[*name], bodies_.size());
        if (is_new) {
          bodies_.emplace_back();
        }
        bodies_[entry->second].push_back({.begin = *body + 1, .end = closing_[*body]});
        defines_[*name] = true;
      }
    }
    sizes_.assign(bodies_.size(), 0);
    is_above_.assign(bodies_.size(), false);
  }

  // The places where a table is read that is such an expression, as far as tokens show it.
  void find_reads() {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const bool qualifies = i + 1 < tokens_.size() && tokens_[i + 1].text == ".";
      if (i == 0 || defines_[i] || qualifies || !tokens_[i].is_name()) {
        continue;
      }
      const std::string& before = folded_[i - 1];
      if (before != "from" && before != "join" && before != "," && before != "(") {
        continue;
      }
      if (const auto found = name_ids_.find(folded_[i]); found != name_ids_.end()) {
        reads_.push_back({.place = i, .name = found->second});
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
      for (const Body& body : bodies_[name]) {
        auto read = std::ranges::lower_bound(reads_, body.begin, {}, &Read::place);
        for (; read != reads_.end() && read->place < body.end; ++read) {
          total = std::min(kSaturation, total + size(read->name));
        }
      }
      sizes_[name] = total;
      is_above_[name] = false;
    }
    return sizes_[name];
  }

  std::span<const SqlToken> tokens_;
  std::vector<std::string> folded_;
  std::vector<std::size_t> closing_;  // of an opening parenthesis; the number of tokens if none
  std::vector<std::size_t> opening_;  // the other way round
  std::unordered_map<std::string, std::size_t> name_ids_;
  std::vector<std::vector<Body>> bodies_;
  std::vector<bool> defines_;
  std::vector<Read> reads_;
  std::vector<std::int64_t> sizes_;
  std::vector<bool> is_above_;
};

}  // namespace

std::int64_t expanded_ctes(std::span<const SqlToken> tokens) {
  return Expressions(tokens).expanded();
}

}  // namespace finestep

#include "sql/growth.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sql/query_parts.h"

namespace finestep {
namespace {

// Queries inside one another. Older SQLite reads fewer, and nobody writes so many.
constexpr int kMaxDepth = 200;

// A column by its name, empty if it has none, and how many terms its expression has.
struct Column {
  std::string name;
  std::int64_t terms;
};

// A query that was read: what it returns, names that may also mean a column of it, all its terms.
struct Grown {
  std::vector<Column> columns;
  std::vector<Column> other_names;
  std::int64_t terms = 0;
  bool is_whole = true;  // no column is missing, as those of `t.*` are

  [[nodiscard]] std::int64_t most_terms() const {
    std::int64_t most = 1;
    for (const Column& column : columns) {
      most = std::max(most, column.terms);
    }
    return most;
  }
};

// The columns that an expression may name. A column without a name is named by its quoted text.
struct Sight {
  const Sight* outer = nullptr;
  std::unordered_map<std::string, std::int64_t> terms_of_name;
  std::int64_t unnamed_terms = 1;
  bool is_merged = false;  // a name may stand for the columns of several tables at once
};

// A common table expression.
struct Cte {
  Part body;
  std::vector<std::string> column_names;
  bool is_open = false;  // it is being read
  std::optional<Grown> grown;
};

// The common table expressions that a query may read.
struct Tables {
  const Tables* outer = nullptr;
  std::unordered_map<std::string, std::size_t> ctes;
  const Sight* sight = nullptr;
};

class Growth {
 public:
  Growth(std::span<const SqlToken> tokens, std::int64_t enough) : parts_(tokens), enough_(enough) {}

  std::int64_t terms() {
    const Grown whole = query({.begin = 0, .end = parts_.size()}, {}, {});
    return is_over_ ? enough_ : whole.terms;
  }

 private:
  std::int64_t sum(std::int64_t a, std::int64_t b) {
    is_over_ = is_over_ || a + b >= enough_;
    return std::min(a + b, enough_);
  }

  // NOLINTBEGIN(misc-no-recursion): at most as deep as kMaxDepth.
  Grown query(Part part, const Tables& outer, const Sight& sight) {
    is_over_ = is_over_ || depth_ > kMaxDepth;
    Grown whole;
    if (is_over_) {
      return whole;
    }
    ++depth_;
    Tables tables;
    tables.outer = &outer;
    tables.sight = &sight;
    std::size_t i = part.begin;
    while (i < part.end && !parts_.starts_query(i)) {
      ++i;
    }
    if (parts_.is_word(i, "with")) {
      i = read_ctes({.begin = i + 1, .end = part.end}, tables);
    }
    while (i < part.end && !is_over_) {
      std::size_t end = i;
      while (end < part.end && !parts_.is_one_of(end, {"union", "intersect", "except"})) {
        end = parts_.after(end, part.end);
      }
      Grown one = parts_.is_word(i, "values") ? values({.begin = i + 1, .end = end}, tables, sight)
                                              : select({.begin = i + 1, .end = end}, tables, sight);
      add_arm(whole, std::move(one));
      i = end + 1;
      i += parts_.is_word(i, "all") ? 1 : 0;
    }
    --depth_;
    return whole;
  }

  // Adds a SELECT of a compound one, whose names are those of the first.
  void add_arm(Grown& whole, Grown&& arm) {
    const std::int64_t terms = sum(whole.terms, arm.terms);
    if (whole.terms == 0) {
      whole = std::move(arm);
      return;
    }
    const std::int64_t most = std::max(whole.most_terms(), arm.most_terms());
    const bool is_aligned = whole.is_whole && arm.is_whole;
    for (std::size_t i = 0; i < whole.columns.size(); ++i) {
      const bool is_known = is_aligned && i < arm.columns.size();
      whole.columns[i].terms =
          is_known ? std::max(whole.columns[i].terms, arm.columns[i].terms) : most;
    }
    for (Column& column : whole.other_names) {
      column.terms = std::max(column.terms, most);
    }
    whole.terms = terms;
    whole.is_whole = is_aligned;
  }

  // Reads what stands between WITH and the query; where that begins.
  std::size_t read_ctes(Part part, Tables& tables) {
    std::size_t i = part.begin + (parts_.is_word(part.begin, "recursive") ? 1 : 0);
    const std::size_t first = ctes_.size();
    while (i < part.end && !parts_.starts_query(i)) {
      Cte cte{};
      const std::string& name = parts_.word(i++);
      if (parts_.is_mark(i, "(")) {
        for (std::size_t j = i + 1; j < parts_.inside(i, part.end).end; j += 2) {
          cte.column_names.push_back(parts_.word(j));
        }
        i = parts_.after(i, part.end);
      }
      while (parts_.is_one_of(i, {"as", "not", "materialized"})) {
        ++i;
      }
      if (!parts_.is_mark(i, "(")) {
        break;
      }
      cte.body = parts_.inside(i, part.end);
      tables.ctes[name] = ctes_.size();
      ctes_.push_back(std::move(cte));
      i = parts_.after(i, part.end);
      i += parts_.is_mark(i, ",") ? 1 : 0;
    }
    const std::size_t last = ctes_.size();
    for (std::size_t cte = first; cte < last; ++cte) {
      grow(cte, tables);
    }
    return i;
  }

  const Grown* grow(std::size_t place, const Tables& tables) {
    if (const Cte& known = ctes_[place]; known.grown) {
      return &*known.grown;
    }
    if (ctes_[place].is_open) {
      return nullptr;
    }
    ctes_[place].is_open = true;
    Grown grown = query(ctes_[place].body, tables, *tables.sight);
    Cte& cte = ctes_[place];  // reading may have moved it
    for (std::size_t i = 0; i < cte.column_names.size(); ++i) {
      if (grown.is_whole && i < grown.columns.size()) {
        grown.columns[i].name = cte.column_names[i];
      } else {
        grown.other_names.push_back({.name = cte.column_names[i], .terms = grown.most_terms()});
      }
    }
    return &cte.grown.emplace(std::move(grown));
  }

  // The common table expression of a name; nothing for another table, and within itself.
  const Grown* named(const std::string& name, const Tables& tables) {
    for (const Tables* scope = &tables; scope != nullptr; scope = scope->outer) {
      if (const auto found = scope->ctes.find(name); found != scope->ctes.end()) {
        return grow(found->second, *scope);
      }
    }
    return nullptr;
  }

  Grown values(Part part, const Tables& tables, const Sight& sight) {
    Grown whole;
    for (std::size_t i = part.begin; i < part.end; i = parts_.after(i, part.end)) {
      if (!parts_.is_mark(i, "(")) {
        continue;
      }
      Grown row;
      for (const Part& value : parts_.split_at_commas(parts_.inside(i, part.end))) {
        const std::int64_t terms = expression(value, tables, sight);
        row.columns.push_back(
            {.name = "column" + std::to_string(row.columns.size() + 1), .terms = terms});
        row.terms = sum(row.terms, terms);
      }
      add_arm(whole, std::move(row));
    }
    return whole;
  }

  Grown select(Part part, const Tables& tables, const Sight& outer) {
    std::size_t from = part.end;
    std::size_t clauses = part.end;
    for (std::size_t i = part.begin; i < part.end && clauses == part.end;
         i = parts_.after(i, part.end)) {
      if (from == part.end && parts_.is_word(i, "from") && !parts_.is_word(i - 1, "distinct")) {
        from = i;
      }
      const bool is_by = parts_.is_one_of(i, {"group", "order"}) && parts_.is_word(i + 1, "by");
      clauses = is_by || parts_.is_one_of(i, {"where", "having", "limit"}) ? i : clauses;
    }
    Sight sight;
    sight.outer = &outer;
    Grown whole;
    Grown sources;
    if (from < clauses) {
      whole.terms = read_sources({.begin = from + 1, .end = clauses}, tables, sight, sources);
    }
    Part items{.begin = part.begin, .end = std::min(from, clauses)};
    items.begin += parts_.is_one_of(items.begin, {"distinct", "all"}) ? 1 : 0;
    for (const Part& item : parts_.split_at_commas(items)) {
      if (item.begin < item.end && parts_.is_mark(item.end - 1, "*") &&
          (item.end - item.begin == 1 || parts_.is_mark(item.end - 2, "."))) {
        add_star(whole, sources);
        continue;
      }
      add_column(whole, item, tables, sight);
    }
    for (const Column& column : whole.columns) {  // may be named in the clauses
      std::int64_t& known = sight.terms_of_name[column.name];
      known = std::max(known, column.terms);
    }
    whole.terms = sum(whole.terms, expression({.begin = clauses, .end = part.end}, tables, sight));
    return whole;
  }

  // Adds all columns of what a query reads, also where it is those of one table only.
  void add_star(Grown& whole, const Grown& sources) {
    whole.is_whole = whole.is_whole && sources.is_whole;
    for (const Column& column : sources.columns) {
      whole.terms = sum(whole.terms, column.terms);
    }
    append(whole.columns, sources.columns);
    append(whole.other_names, sources.other_names);
  }

  void add_column(Grown& whole, Part item, const Tables& tables, const Sight& sight) {
    const auto alias = parts_.alias_of(item);
    const std::size_t end = alias ? *alias - (parts_.is_word(*alias - 1, "as") ? 1 : 0) : item.end;
    const Part value{.begin = item.begin, .end = end};
    const auto terms = std::max<std::int64_t>(1, expression(value, tables, sight));
    whole.terms = sum(whole.terms, terms);
    // The name of a column is that of the one it shows, also through parentheses and COLLATE.
    const bool is_shown = !alias && value.begin < end && parts_.token(end - 1).is_name() &&
                          (end - value.begin == 1 || parts_.is_mark(end - 2, "."));
    const bool is_named = alias || is_shown;
    whole.columns.push_back({.name = is_named ? parts_.word(item.end - 1) : "", .terms = terms});
    whole.other_names.push_back({.name = "", .terms = terms});
    if (is_named || value.begin == end) {
      return;
    }
    for (std::size_t i = value.begin; i < end; i = parts_.after_query(i, end)) {
      if (parts_.token(i).is_name()) {
        whole.other_names.push_back({.name = parts_.word(i), .terms = lookup(i, sight)});
      }
    }
    whole.other_names.push_back({.name = parts_.word(end - 1), .terms = terms});  // if in doubt
  }

  // Adds what a FROM clause reads to what can be named; the terms of all of it.
  std::int64_t read_sources(Part part, const Tables& tables, Sight& sight, Grown& sources) {
    for (std::size_t i = part.begin; i < part.end; i = parts_.after_query(i, part.end)) {
      sight.is_merged = sight.is_merged || parts_.is_one_of(i, {"natural", "using"});
    }
    std::vector<Part> conditions;
    bool is_expected = true;
    std::size_t i = part.begin;
    while (i < part.end && !is_over_) {
      if (parts_.is_mark(i, ",") || parts_.is_word(i, "join")) {
        is_expected = true;
        ++i;
      } else if (is_expected) {
        is_expected = parts_.is_mark(i, "(") && !parts_.starts_query(i + 1);
        i = is_expected ? i + 1
                        : read_source({.begin = i, .end = part.end}, tables, sight, sources);
      } else {
        const std::size_t begin = i;
        while (i < part.end && !parts_.is_mark(i, ",") && !parts_.is_word(i, "join")) {
          i = parts_.after(i, part.end);
        }
        conditions.push_back({.begin = begin, .end = i});
      }
    }
    std::int64_t terms = sources.terms;
    for (const Part& condition : conditions) {
      terms = sum(terms, expression(condition, tables, sight));
    }
    return terms;
  }

  // Reads the query or the table that a part of a FROM clause begins with; the place after it.
  std::size_t read_source(Part part, const Tables& tables, Sight& sight, Grown& sources) {
    const std::size_t i = part.begin;
    if (parts_.is_mark(i, "(")) {
      add_source(query(parts_.inside(i, part.end), tables, *sight.outer), sight, sources);
      return parts_.after(i, part.end);
    }
    const bool has_schema = parts_.is_mark(i + 1, ".");
    const Grown* const read = has_schema ? nullptr : named(parts_.word(i), tables);
    if (read != nullptr) {
      add_source(*read, sight, sources);
    } else {
      sources.is_whole = false;
    }
    return has_schema ? i + 3 : i + 1;
  }

  void add_source(const Grown& read, Sight& sight, Grown& sources) {
    sources.terms = sum(sources.terms, read.terms);
    sources.is_whole = sources.is_whole && read.is_whole;
    append(sources.columns, read.columns);
    append(sources.other_names, read.other_names);
    for (const auto* columns : {&read.columns, &read.other_names}) {
      for (const auto& [name, size] : *columns) {
        std::int64_t& known = name.empty() ? sight.unnamed_terms : sight.terms_of_name[name];
        known = sight.is_merged ? std::min(known + size, enough_) : std::max(known, size);
      }
    }
  }

  void append(std::vector<Column>& to, const std::vector<Column>& from) {
    copied_ = sum(copied_, std::ssize(from));
    to.insert(to.end(), from.begin(), from.end());
  }

  std::int64_t expression(Part part, const Tables& tables, const Sight& sight) {
    std::int64_t terms = 0;
    for (std::size_t i = part.begin; i < part.end && !is_over_; ++i) {
      if (parts_.is_mark(i, "(") && parts_.starts_query(i + 1)) {
        terms = sum(terms, query(parts_.inside(i, part.end), tables, sight).terms);
        i = parts_.after(i, part.end) - 1;
      } else if (parts_.is_word(i, "in") && i + 1 < part.end && parts_.token(i + 1).may_name()) {
        const Grown* const read = named(parts_.word(i + 1), tables);
        terms = sum(terms, read != nullptr ? read->terms : 1);
        ++i;
      } else if (parts_.token(i).is_name()) {
        terms = sum(terms, lookup(i, sight));
      } else if (parts_.token(i).kind != TokenKind::mark) {
        terms = sum(terms, 1);
      }
    }
    return terms;
  }
  // NOLINTEND(misc-no-recursion)

  // The terms of what a name means: none before a dot, one for what is no column of a query inside.
  [[nodiscard]] std::int64_t lookup(std::size_t i, const Sight& sight) const {
    if (parts_.is_mark(i + 1, "(") || parts_.is_mark(i + 1, ".")) {
      return parts_.is_mark(i + 1, "(") ? 1 : 0;
    }
    std::int64_t unnamed = 1;
    for (const Sight* scope = &sight; scope != nullptr; scope = scope->outer) {
      const auto found = scope->terms_of_name.find(parts_.word(i));
      if (found != scope->terms_of_name.end()) {
        return found->second;
      }
      unnamed = std::max(unnamed, scope->unnamed_terms);
    }
    return parts_.token(i).kind == TokenKind::quoted ? unnamed : 1;
  }

  QueryParts parts_;
  std::int64_t enough_;
  std::vector<Cte> ctes_;
  int depth_ = 0;
  std::int64_t copied_ = 0;  // columns, in our own work
  bool is_over_ = false;
};

}  // namespace

std::int64_t grown_terms(std::span<const SqlToken> tokens, std::int64_t enough) {
  return Growth(tokens, enough).terms();
}

}  // namespace finestep

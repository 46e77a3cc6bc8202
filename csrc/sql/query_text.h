// A query's text with what the guard asks of it: however often it asks, each is worked out once, so
// that its work is linear in the length of the text.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "sql/precheck.h"
#include "sql/tokens.h"

namespace finestep {

class QueryText {
 public:
  QueryText() = default;
  // `sql` must outlive it.
  explicit QueryText(std::string_view sql) : sql_(sql) {}

  // The tokens that are no space.
  std::span<const SqlToken> tokens() {
    if (!tokens_) {
      tokens_ = sql_tokens_without_space(sql_);
    }
    return *tokens_;
  }
  // As the functions of the same names in precheck.h say.
  bool formats_are_literal() {
    if (!formats_are_literal_) {
      formats_are_literal_ = finestep::formats_are_literal(tokens());
    }
    return *formats_are_literal_;
  }
  bool reads_clock() { return finestep::reads_clock(sql_, tokens()); }

 private:
  std::string_view sql_;
  std::optional<std::vector<SqlToken>> tokens_;
  std::optional<bool> formats_are_literal_;
};

}  // namespace finestep

// A query as the test-suite evaluator of Spider runs it.
#pragma once

#include <string>
#include <string_view>

namespace finestep {

struct SpiderQuery {
  std::string text;
  bool drops_distinct = false;  // the word DISTINCT, at least once
};

// `> =`, `< =` and `! =` are joined wherever they stand, YEAR(CURDATE()) becomes 2020, and, unless
// `keep_distinct`, every word DISTINCT is dropped and what follows the first statement is cut off.
// Where the word is part of an operator (IS NOT DISTINCT FROM), that leaves no query behind.
SpiderQuery spider_query(std::string_view sql, bool keep_distinct);

}  // namespace finestep

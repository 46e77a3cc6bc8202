// The pairs of a batch by gold query: equal golds run once, equal predictions of one gold once.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace finestep {

// One pair as it was given.
struct MatchPair {
  std::size_t database = 0;
  std::string predicted;
  std::string gold;
  bool ordered = false;  // the gold query orders its rows
};

// A gold query, and the predictions that are held against it.
struct GoldGroup {
  std::size_t database = 0;
  std::string sql;
  bool ordered = false;
  std::vector<std::size_t> units;
};

// A prediction that is run once, for all pairs that ask for it.
struct MatchUnit {
  std::size_t group = 0;
  std::string predicted;
  std::vector<std::size_t> pairs;
};

struct PairGroups {
  std::vector<GoldGroup> groups;
  std::vector<MatchUnit> units;
  std::vector<std::size_t> unit_of_pair;
};

PairGroups grouped(std::vector<MatchPair> pairs);

}  // namespace finestep

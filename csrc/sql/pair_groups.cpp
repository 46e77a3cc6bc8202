#include "sql/pair_groups.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace finestep {
namespace {

// A text with the number of what it belongs to; the views point to texts that do not move.
using TextKey = std::tuple<std::size_t, std::string_view, bool>;
struct TextKeyHash {
  std::size_t operator()(const TextKey& key) const {
    const auto& [number, text, flag] = key;
    return std::hash<std::string_view>{}(text) ^ (number * 0x9e3779b97f4a7c15U) ^ (flag ? 1U : 0U);
  }
};
using Seen = std::unordered_map<TextKey, std::size_t, TextKeyHash>;

}  // namespace

PairGroups grouped(std::vector<MatchPair> pairs) {
  std::deque<GoldGroup> groups;  // whose items stay where they are
  std::deque<MatchUnit> units;
  std::vector<std::size_t> unit_of_pair;
  Seen group_by_gold;
  Seen unit_by_prediction;
  unit_of_pair.reserve(pairs.size());
  for (MatchPair& pair : pairs) {
    std::size_t group = groups.size();
    const auto gold = group_by_gold.find({pair.database, pair.gold, pair.ordered});
    if (gold != group_by_gold.end()) {
      group = gold->second;
    } else {
      groups.push_back({.database = pair.database,
                        .sql = std::move(pair.gold),
                        .ordered = pair.ordered,
                        .units = {}});
      group_by_gold[{pair.database, groups.back().sql, pair.ordered}] = group;
    }
    std::size_t unit = units.size();
    const auto prediction = unit_by_prediction.find({group, pair.predicted, false});
    if (prediction != unit_by_prediction.end()) {
      unit = prediction->second;
    } else {
      units.push_back({.group = group, .predicted = std::move(pair.predicted), .pairs = {}});
      unit_by_prediction[{group, units.back().predicted, false}] = unit;
      groups[group].units.push_back(unit);
    }
    units[unit].pairs.push_back(unit_of_pair.size());
    unit_of_pair.push_back(unit);
  }
  return {
      .groups = {std::make_move_iterator(groups.begin()), std::make_move_iterator(groups.end())},
      .units = {std::make_move_iterator(units.begin()), std::make_move_iterator(units.end())},
      .unit_of_pair = std::move(unit_of_pair)};
}

}  // namespace finestep

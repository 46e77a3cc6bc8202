// What an engine is called with, read from Python's objects.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "python/database_list.h"
#include "python/sql_values.h"
#include "sql/pair_groups.h"

namespace finestep {

using PyJobs = pybind11::typing::List<pybind11::typing::Tuple<pybind11::str, pybind11::str>>;
using PyPairs =
    pybind11::typing::List<pybind11::typing::Tuple<pybind11::str, pybind11::str, pybind11::str>>;
using PyFlags = pybind11::typing::List<pybind11::bool_>;

// [(path, query)] as (place of the database, query).
inline std::vector<std::pair<std::size_t, std::string>> read_jobs(const PyJobs& jobs,
                                                                  DatabaseList& databases) {
  std::vector<std::pair<std::size_t, std::string>> listed;
  listed.reserve(jobs.size());
  for (const auto& entry : jobs) {
    const auto job = pybind11::cast<pybind11::tuple>(entry);
    listed.emplace_back(databases.index_of(job[0]), utf8_of(job[1]));
  }
  return listed;
}

// [(path, predicted, gold)], with one flag per pair or the same for all.
inline std::vector<MatchPair> read_pairs(const PyPairs& pairs,
                                         const std::optional<PyFlags>& ordered, bool all_ordered,
                                         DatabaseList& databases) {
  std::vector<MatchPair> listed;
  listed.reserve(pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto pair = pybind11::cast<pybind11::tuple>(pairs[i]);
    listed.push_back({.database = databases.index_of(pair[0]),
                      .predicted = utf8_of(pair[1]),
                      .gold = utf8_of(pair[2]),
                      .ordered = ordered ? pybind11::cast<bool>((*ordered)[i]) : all_ordered});
  }
  return listed;
}

}  // namespace finestep

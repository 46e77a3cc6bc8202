// The databases that a batch of Python's tuples names.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include "python/gil.h"
#include "python/sql_values.h"
#include "sql/runner.h"

namespace finestep {

// Databases in the order in which they are first named.
class DatabaseList {
 public:
  std::size_t index_of(const pybind11::handle& path) {
    const auto [known, is_new] = index_by_object_.try_emplace(path.ptr(), paths_.size());
    if (is_new) {
      const auto bytes = checked(PyUnicode_EncodeFSDefault(path.ptr()));
      const auto [same, is_other] =
          index_by_path_.try_emplace(pybind11::cast<std::string>(bytes), paths_.size());
      known->second = same->second;
      if (is_other) {
        paths_.push_back(same->first);
      }
    }
    return known->second;
  }

  // What is known of each file now.
  std::vector<Database> found() const {
    const ReleasedGil released;
    std::vector<Database> databases;
    for (const std::string& path : paths_) {
      databases.push_back(found_database(path));
    }
    return databases;
  }

 private:
  std::unordered_map<PyObject*, std::size_t> index_by_object_;
  std::unordered_map<std::string, std::size_t> index_by_path_;
  std::vector<std::string> paths_;
};

}  // namespace finestep

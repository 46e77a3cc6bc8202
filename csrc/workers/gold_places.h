// Which worker holds the result of which gold query.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>

#include "workers/work.h"

namespace finestep {

// A hint, no promise: the worker may have forgotten the gold or have been ended.
class GoldPlaces {
 public:
  // The place where a gold with that hash of its key ran last, or kAnyPlace.
  std::size_t find(std::uint64_t hash) {
    const std::scoped_lock lock(mutex_);
    const auto found = place_by_hash_.find(hash);
    return found == place_by_hash_.end() ? kAnyPlace : found->second;
  }

  void note(std::uint64_t hash, std::size_t place) {
    const std::scoped_lock lock(mutex_);
    if (place_by_hash_.size() >= kMost) {
      place_by_hash_.clear();
    }
    place_by_hash_[hash] = static_cast<std::uint32_t>(place);
  }

 private:
  static constexpr std::size_t kMost = std::size_t{1} << 20U;

  std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::uint32_t> place_by_hash_;
};

}  // namespace finestep

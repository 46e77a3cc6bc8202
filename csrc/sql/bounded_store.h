// Values by key within a budget of memory: the one unused for longest goes first.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace finestep {

// For one thread at a time.
template <typename Value>
class BoundedStore {
 public:
  explicit BoundedStore(std::int64_t max_bytes) : max_bytes_(max_bytes) {}

  std::optional<Value> find(std::string_view key) {
    const auto found = entry_by_key_.find(key);
    if (found == entry_by_key_.end()) {
      return std::nullopt;
    }
    entries_.splice(entries_.end(), entries_, found->second);
    return found->second->value;
  }

  // Keeps a value of that size, unless it is larger than the whole budget or its key is there.
  void keep(const std::string& key, Value value, std::int64_t size_bytes) {
    if (entry_by_key_.contains(key) || size_bytes > max_bytes_) {
      return;
    }
    const auto entry = entries_.insert(
        entries_.end(), {.key = key, .value = std::move(value), .size_bytes = size_bytes});
    entry_by_key_[entry->key] = entry;
    size_bytes_ += size_bytes;
    while (size_bytes_ > max_bytes_) {
      const Entry& oldest = entries_.front();
      size_bytes_ -= oldest.size_bytes;
      entry_by_key_.erase(oldest.key);
      entries_.pop_front();
    }
  }

 private:
  struct Entry {
    std::string key;
    Value value{};
    std::int64_t size_bytes = 0;
  };

  std::int64_t max_bytes_;
  std::list<Entry> entries_;  // the one unused for longest first
  std::unordered_map<std::string_view, typename std::list<Entry>::iterator> entry_by_key_;
  std::int64_t size_bytes_ = 0;
};

}  // namespace finestep

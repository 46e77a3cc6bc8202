// Gold results: remembered between calls within a budget of memory, and run once even if several
// callers ask at the same time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "compare/comparison.h"
#include "sql/bounded_store.h"
#include "sql/query.h"

namespace finestep {

// The outcome of a gold query: its rows, ready to be compared, or why there are none.
struct Gold {
  QueryReport report;
  std::optional<Comparand> rows;
};
using SharedGold = std::shared_ptr<const Gold>;

// What a gold's rows depend on, and beside that what the course of its run depends on.
struct GoldKey {
  std::string rows;
  std::string run;
};

class GoldStore {
 public:
  // Called with the gold once another caller has run it, or with nothing if it must be requested
  // again.
  using Waiter = std::function<void(const SharedGold&)>;

  explicit GoldStore(std::int64_t max_bytes) : golds_(max_bytes) {}

  // The gold if it is remembered. Else nothing, and `must_run` says whether the caller has to run
  // it and publish it; if not, another caller runs it already and `waiter` will be called.
  SharedGold find(const GoldKey& key, const Waiter& waiter, bool& must_run);

  // Ends the run of a gold. It is remembered if it is OK and does not depend on time or chance.
  // Without a gold, or with one that others must not share, the waiters are called with nothing, so
  // that they ask again.
  void publish(const GoldKey& key, const SharedGold& gold);

 private:
  std::mutex mutex_;
  BoundedStore<SharedGold> golds_;
  std::unordered_map<std::string, std::vector<Waiter>> waiters_by_key_;  // of golds that run
};

}  // namespace finestep

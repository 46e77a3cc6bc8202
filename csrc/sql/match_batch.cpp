#include "sql/match_batch.h"

#include <utility>

namespace finestep {

MatchBatch::MatchBatch(std::shared_ptr<SqlRunner> runner, std::shared_ptr<JobQueue> queue,
                       std::vector<Database> databases, std::vector<MatchPair> pairs,
                       const MatchSettings& settings)
    : runner_(std::move(runner)),
      queue_(std::move(queue)),
      databases_(std::move(databases)),
      settings_(settings) {
  PairGroups listed = grouped(std::move(pairs));
  for (GoldGroup& group : listed.groups) {
    ComparisonSettings comparison = settings.comparison;
    comparison.ordered = group.ordered;
    auto key = gold_key(databases_[group.database], group.sql, comparison, settings);
    slots_.push_back({.database = group.database,
                      .sql = std::move(group.sql),
                      .key = std::move(key),
                      .comparison = comparison,
                      .gold = nullptr,
                      .units = std::move(group.units)});
    slots_.back().num_open = slots_.back().units.size();
  }
  for (MatchUnit& unit : listed.units) {
    units_.push_back({.slot = unit.group,
                      .predicted = std::move(unit.predicted),
                      .pairs = std::move(unit.pairs),
                      .report = std::nullopt});
  }
  unit_of_pair_ = std::move(listed.unit_of_pair);
  open(units_.size());
}

void MatchBatch::start() {
  std::vector<std::size_t> all(slots_.size());
  for (std::size_t slot = 0; slot < all.size(); ++slot) {
    all[slot] = slot;
  }
  request_golds(all);
}

void MatchBatch::request_golds(const std::vector<std::size_t>& slots) {
  std::vector<std::size_t> tasks;
  for (const std::size_t slot : slots) {
    GoldSlot& asked = slots_[slot];
    const std::string& problem = databases_[asked.database].problem;
    bool must_run = false;
    SharedGold gold;
    if (!problem.empty()) {
      gold = std::make_shared<const Gold>(
          Gold{.report = {.status = QueryStatus::database_unreadable, .message = problem},
               .rows = std::nullopt});
    } else {
      const auto waiter = [self = shared_from_this(), this, slot](const SharedGold& published) {
        static_cast<void>(self);  // keeps us alive
        receive_gold(slot, published);
      };
      gold = runner_->golds.find(asked.key, waiter, must_run);
      runner_->num_golds_reused += gold ? 1 : 0;
    }
    if (gold) {
      const auto units = take_gold(slot, gold);
      tasks.insert(tasks.end(), units.begin(), units.end());
    } else if (must_run) {
      const std::scoped_lock lock(mutex_);
      asked.is_ours = true;
      tasks.push_back(slot);
    }
  }
  queue_->add(shared_from_this(), tasks, false);
  if (cancelled()) {
    abandon();
  }
}

void MatchBatch::receive_gold(std::size_t slot, const SharedGold& gold) {
  if (!gold) {
    request_golds({slot});
    return;
  }
  const auto tasks = take_gold(slot, gold);
  queue_->add(shared_from_this(), tasks, true);
  queue_->notify();
}

std::vector<std::size_t> MatchBatch::take_gold(std::size_t slot, const SharedGold& gold) {
  GoldSlot& taken = slots_[slot];
  if (gold->rows) {
    const std::scoped_lock lock(mutex_);
    taken.gold = gold;
    std::vector<std::size_t> tasks;
    tasks.reserve(taken.units.size());
    for (const std::size_t unit : taken.units) {
      tasks.push_back(slots_.size() + unit);
    }
    return tasks;
  }
  for (const std::size_t unit : taken.units) {
    finish(unit, failed_gold(gold->report));
  }
  return {};
}

bool MatchBatch::perform(std::size_t task, bool alone) {
  if (alone) {
    runner_->connections.clear();
  }
  return task < slots_.size() ? run_gold(task, alone) : run_predicted(task - slots_.size(), alone);
}

bool MatchBatch::run_gold(std::size_t slot, bool alone) {
  GoldSlot& asked = slots_[slot];
  const auto gold = finestep::run_gold(*runner_, databases_[asked.database], asked.sql,
                                       asked.comparison, settings_, cancelled());
  if (gold->report.out_of_memory && !alone) {
    return false;
  }
  {
    const std::scoped_lock lock(mutex_);
    asked.is_ours = false;
  }
  runner_->golds.publish(asked.key, gold);
  if (!gold->report.cancelled) {
    queue_->add(shared_from_this(), take_gold(slot, gold), true);
  }
  return true;
}

bool MatchBatch::run_predicted(std::size_t unit, bool alone) {
  const Unit* asked = nullptr;
  SharedGold gold;
  {
    const std::scoped_lock lock(mutex_);
    asked = &units_[unit];
    gold = slots_[asked->slot].gold;
  }
  const GoldSlot& slot = slots_[asked->slot];
  MatchReport done = match_predicted(*runner_, databases_[slot.database], asked->predicted, *gold,
                                     slot.comparison, settings_, cancelled());
  if (done.report.out_of_memory && !alone) {
    return false;
  }
  if (done.report.is_volatile && !done.report.cancelled) {
    queue_->add(shared_from_this(), split(unit), false);
  }
  finish(unit, std::move(done));
  return true;
}

std::vector<std::size_t> MatchBatch::split(std::size_t unit) {
  const std::scoped_lock lock(mutex_);
  std::vector<std::size_t> tasks;
  Unit& first = units_[unit];
  for (; first.pairs.size() > 1; first.pairs.pop_back()) {
    const std::size_t other = units_.size();
    units_.push_back({.slot = first.slot,
                      .predicted = first.predicted,
                      .pairs = {first.pairs.back()},
                      .report = std::nullopt});
    unit_of_pair_[first.pairs.back()] = other;
    ++slots_[first.slot].num_open;
    tasks.push_back(slots_.size() + other);
  }
  open(tasks.size());
  return tasks;
}

void MatchBatch::finish(std::size_t unit, MatchReport report) {
  SharedGold unneeded;  // freed after the lock is released
  {
    const std::scoped_lock lock(mutex_);
    Unit& finished = units_[unit];
    finished.report = std::move(report);
    GoldSlot& slot = slots_[finished.slot];
    if (--slot.num_open == 0) {
      unneeded = std::move(slot.gold);
    }
  }
  close(1);
}

void MatchBatch::abandon() {
  for (GoldSlot& slot : slots_) {
    bool was_ours = false;
    {
      const std::scoped_lock lock(mutex_);
      was_ours = std::exchange(slot.is_ours, false);
    }
    if (was_ours) {
      runner_->golds.publish(slot.key, nullptr);
    }
  }
}

std::vector<std::optional<MatchReport>> MatchBatch::reports() {
  const std::scoped_lock lock(mutex_);
  std::vector<std::optional<MatchReport>> all;
  all.reserve(units_.size());
  for (const Unit& unit : units_) {
    all.push_back(unit.report);
  }
  return all;
}

std::vector<std::size_t> MatchBatch::unit_of_pair() {
  const std::scoped_lock lock(mutex_);
  return unit_of_pair_;
}

}  // namespace finestep

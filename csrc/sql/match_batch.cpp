#include "sql/match_batch.h"

#include <bit>
#include <new>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "sql/comparand_sink.h"

namespace finestep {
namespace {

constexpr auto kNotUtf8 = "the result holds text that is not valid UTF-8";

void append(std::string& key, std::uint64_t number) {
  key.push_back(' ');
  key += std::to_string(number);
}

GoldKey gold_key(const Database& database, const std::string& sql,
                 const ComparisonSettings& comparison, const MatchSettings& settings) {
  std::string key = database.identity.key + sql;
  key.push_back('\0');
  append(key, static_cast<std::uint64_t>(comparison.semantics));
  append(key, comparison.ordered ? 1 : 0);
  append(key, settings.utf8_only ? 1 : 0);
  append(key, std::bit_cast<std::uint64_t>(comparison.float_tolerance));
  append(key, static_cast<std::uint64_t>(settings.limits.max_rows));
  append(key, static_cast<std::uint64_t>(settings.limits.max_bytes));
  std::string run = key;
  append(run, std::bit_cast<std::uint64_t>(settings.limits.timeout_s));
  return {.rows = std::move(key), .run = std::move(run)};
}

// The report of a query whose rows were taken for comparison: a truncated result, or text that
// is not UTF-8 where only that is allowed, is a failure.
QueryReport as_whole(QueryReport report, const ComparandSink& sink, bool utf8_only) {
  if (report.status != QueryStatus::ok) {
    return report;
  }
  if (report.truncated) {
    report.status = QueryStatus::too_large;
    report.message =
        "the result exceeds the limits after " + std::to_string(sink.num_rows()) + " rows";
  } else if (utf8_only && sink.invalid_utf8()) {
    report.status = QueryStatus::error;
    report.message = kNotUtf8;
  }
  return report;
}

void fail_for_memory(QueryReport& report) {
  report.status = QueryStatus::too_large;
  report.message = "out of memory";
  report.out_of_memory = true;
}

// Queries seen before, by their texts; the views point into the batch.
using PairKey = std::tuple<std::size_t, std::string_view, bool>;
struct PairKeyHash {
  std::size_t operator()(const PairKey& key) const {
    const auto& [number, text, flag] = key;
    return std::hash<std::string_view>{}(text) ^ (number * 0x9e3779b97f4a7c15U) ^ (flag ? 1U : 0U);
  }
};
using Seen = std::unordered_map<PairKey, std::size_t, PairKeyHash>;

}  // namespace

MatchBatch::MatchBatch(std::shared_ptr<SqlRunner> runner, std::shared_ptr<JobQueue> queue,
                       std::vector<Database> databases, std::vector<MatchPair> pairs,
                       const MatchSettings& settings)
    : runner_(std::move(runner)),
      queue_(std::move(queue)),
      databases_(std::move(databases)),
      settings_(settings) {
  Seen slots;
  Seen units;
  unit_of_pair_.reserve(pairs.size());
  for (MatchPair& pair : pairs) {
    const auto slot = slots.find({pair.database, pair.gold, pair.ordered});
    std::size_t slot_id = slots_.size();
    if (slot != slots.end()) {
      slot_id = slot->second;
    } else {
      ComparisonSettings comparison = settings.comparison;
      comparison.ordered = pair.ordered;
      auto key = gold_key(databases_[pair.database], pair.gold, comparison, settings);
      slots_.push_back({.database = pair.database,
                        .sql = std::move(pair.gold),
                        .key = std::move(key),
                        .comparison = comparison,
                        .gold = nullptr,
                        .units = {}});
      slots[{pair.database, slots_.back().sql, pair.ordered}] = slot_id;
    }
    const auto unit = units.find({slot_id, pair.predicted, false});
    std::size_t unit_id = units_.size();
    if (unit != units.end()) {
      unit_id = unit->second;
    } else {
      units_.push_back({.slot = slot_id,
                        .predicted = std::move(pair.predicted),
                        .pairs = {},
                        .report = std::nullopt});
      units[{slot_id, units_.back().predicted, false}] = unit_id;
      slots_[slot_id].units.push_back(unit_id);
      ++slots_[slot_id].num_open;
    }
    units_[unit_id].pairs.push_back(unit_of_pair_.size());
    unit_of_pair_.push_back(unit_id);
  }
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
    finish(unit, {.gold_failed = true, .report = gold->report, .outcome = {}});
  }
  return {};
}

bool MatchBatch::perform(std::size_t task, bool alone, TaskWatch& watch) {
  if (alone) {
    runner_->connections.clear();
  }
  return task < slots_.size() ? run_gold(task, alone, watch)
                              : run_predicted(task - slots_.size(), alone, watch);
}

bool MatchBatch::run_gold(std::size_t slot, bool alone, TaskWatch& watch) {
  GoldSlot& asked = slots_[slot];
  ComparandSink sink(asked.comparison, nullptr);
  QueryReport report =
      runner_->run(databases_[asked.database], asked.sql, settings_.limits, *this, watch, sink);
  if (report.out_of_memory && !alone) {
    return false;
  }
  const auto gold = std::make_shared<Gold>();
  gold->report = as_whole(std::move(report), sink, settings_.utf8_only);
  try {
    if (gold->report.status == QueryStatus::ok) {
      gold->rows.emplace(std::move(sink).finished());
    }
  } catch (const std::bad_alloc&) {
    fail_for_memory(gold->report);
    if (!alone) {
      return false;
    }
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

bool MatchBatch::run_predicted(std::size_t unit, bool alone, TaskWatch& watch) {
  const Unit* asked = nullptr;
  SharedGold gold;
  {
    const std::scoped_lock lock(mutex_);
    asked = &units_[unit];
    gold = slots_[asked->slot].gold;
  }
  const GoldSlot& slot = slots_[asked->slot];
  // NOLINTNEXTLINE(bugprone-unchecked-optional-access): units run only once there are rows.
  const Comparand& gold_rows = gold->rows.value();
  ComparandSink sink(slot.comparison, settings_.early_exit ? &gold_rows : nullptr);
  MatchReport done{.gold_failed = false, .report = {}, .outcome = {}};
  done.report = runner_->run(databases_[slot.database], asked->predicted, settings_.limits, *this,
                             watch, sink);
  try {
    done.report = as_whole(std::move(done.report), sink, settings_.utf8_only);
    if (done.report.status == QueryStatus::ok && !sink.is_settled()) {
      const Comparand rows = std::move(sink).finished();
      done.outcome = compare(rows, gold_rows, slot.comparison);
    }
  } catch (const std::bad_alloc&) {
    fail_for_memory(done.report);
  }
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

std::vector<std::size_t> MatchBatch::units_of_task(std::size_t task) {
  const std::scoped_lock lock(mutex_);
  return is_gold_task(task) ? slots_[task].units : std::vector<std::size_t>{task - slots_.size()};
}

}  // namespace finestep

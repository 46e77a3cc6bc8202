#include "workers/match_work.h"

#include <algorithm>
#include <functional>
#include <map>
#include <ranges>
#include <utility>

#include "workers/loss_report.h"

namespace finestep {

MatchWork::MatchWork(std::uint64_t call, std::vector<Database> databases,
                     std::vector<MatchPair> pairs, const MatchSettings& settings,
                     std::chrono::nanoseconds latest, GoldPlaces& places, std::size_t num_places,
                     WorkCounts& counts)
    : call_(call),
      databases_(std::move(databases)),
      settings_(settings),
      latest_(latest),
      places_(&places),
      counts_(&counts),
      queues_(num_places + 1) {
  PairGroups listed = grouped(std::move(pairs));
  units_ = std::move(listed.units);
  unit_of_pair_ = std::move(listed.unit_of_pair);
  reports_.resize(units_.size());
  num_crashes_.resize(units_.size());
  num_open_ += units_.size();
  groups_.reserve(listed.groups.size());
  for (GoldGroup& given : listed.groups) {
    Group group;
    group.given = std::move(given);
    group.waiting.assign(group.given.units.begin(), group.given.units.end());
    const Database& database = databases_[group.given.database];
    group.hash = std::hash<std::string>{}(database.identity.key) * 0x9e3779b97f4a7c15U ^
                 std::hash<std::string>{}(group.given.sql);
    group.place = places_->find(group.hash);
    groups_.push_back(std::move(group));
    if (database.problem.empty()) {
      enqueue(groups_.size() - 1, false);
    } else {
      fail_gold(groups_.back(),
                {.status = QueryStatus::database_unreadable, .message = database.problem});
    }
  }
}

MatchWork::Queue& MatchWork::queue_at(std::size_t place) {
  return queues_[std::min(place, queues_.size() - 1)];
}

void MatchWork::enqueue(std::size_t group, bool first) {
  Group& queued = groups_[group];
  if (!std::exchange(queued.is_queued, true)) {
    Queue& queue = queue_at(queued.place);
    queue.insert(first ? queue.begin() : queue.end(), group);
  }
}

std::size_t MatchWork::wanted_place() const {
  const auto longest = std::ranges::max_element(queues_, {}, &Queue::size);
  if (longest->empty()) {
    return kNoPlace;
  }
  const auto place = static_cast<std::size_t>(longest - queues_.begin());
  return place + 1 == queues_.size() ? kAnyPlace : place;
}

// The next group for a worker: of its own place, of no place, or of the place with most to do.
std::optional<std::size_t> MatchWork::next_group(std::size_t place) {
  Queue* queue = &queue_at(place);
  if (queue->empty()) {
    queue = &queues_.back();
  }
  if (queue->empty()) {
    queue = &*std::ranges::max_element(queues_, {}, &Queue::size);
  }
  // The rows of a volatile gold are at one place only; if that worker does not come, it is run
  // again.
  const auto found = std::ranges::find_if(*queue, [&](std::size_t group) {
    return groups_[group].gold != Gold::is_volatile || groups_[group].place == place ||
           lent_.empty();
  });
  return found == queue->end() ? std::nullopt : std::optional(*found);
}

std::string_view MatchWork::share(Lease lease, std::size_t place, std::size_t num_queries) {
  MatchRequest request;
  request.call = call_;
  request.settings = settings_;
  Lent lent{.place = place, .units = {}};
  std::map<std::size_t, std::uint64_t> listed;
  while (lent.units.size() < num_queries) {
    const auto next = next_group(place);
    if (!next) {
      break;
    }
    Group& group = groups_[*next];
    const auto [database, is_new] = listed.try_emplace(group.given.database, listed.size());
    if (is_new) {
      request.databases.push_back(databases_[group.given.database]);
    }
    request.golds.push_back({.number = *next,
                             .database = database->second,
                             .ordered = group.given.ordered,
                             .sql = group.given.sql});
    while (!group.waiting.empty() && lent.units.size() < num_queries) {
      const std::size_t unit = group.waiting.front();
      group.waiting.pop_front();
      lent.units.push_back(unit);
      request.units.push_back(
          {.number = unit, .gold = request.golds.size() - 1, .predicted = units_[unit].predicted});
    }
    if (group.gold == Gold::is_volatile && group.place != place) {
      group.gold = Gold::unknown;
    }
    const bool is_asked = group.gold == Gold::unknown;
    if (is_asked || group.waiting.empty()) {
      std::erase(queue_at(group.place), *next);
      group.is_queued = false;
    }
    if (is_asked) {
      group.gold = Gold::asked;
      group.place = place;
      places_->note(group.hash, place);
    }
  }
  if (lent.units.empty()) {
    return {};
  }
  lent_.emplace(lease, std::move(lent));
  writer_.clear();
  write(writer_, request);
  return writer_.finished();
}

bool MatchWork::take(Lease lease, std::string_view message) {
  MessageReader reader(message);
  const AnswerHead head = read_head(reader);
  counts_->queries_run += head.queries_run;
  const auto lent = lent_.find(lease);
  if (lent == lent_.end()) {
    return false;
  }
  while (!reader.is_at_end()) {
    take_answer(lent->second, read_match_answer(reader));
  }
  if (head.is_last) {
    lent_.erase(lent);
  }
  return head.is_last;
}

void MatchWork::take_answer(Lent& lent, MatchAnswer answer) {
  const std::size_t unit = answer.number;
  Group& group = groups_.at(units_.at(unit).group);
  if (answer.report.gold_failed) {
    fail_gold(group, answer.report.report);
  } else if (group.gold == Gold::asked) {
    counts_->golds_reused += answer.gold_is_remembered ? 1 : 0;
    group.gold = answer.gold_is_volatile ? Gold::is_volatile : Gold::known;
    group.place = lent.place;
    if (!group.waiting.empty()) {
      enqueue(units_[unit].group, true);
    }
  }
  if (!reports_[unit]) {
    const bool is_volatile = answer.report.report.is_volatile && !answer.report.gold_failed;
    finish(unit, std::move(answer.report));
    if (is_volatile) {
      split(unit);
    }
  }
}

// Pairs of a prediction that depends on time or chance get a run each.
void MatchWork::split(std::size_t unit) {
  const std::size_t group = units_[unit].group;
  while (units_[unit].pairs.size() > 1) {
    const std::size_t pair = units_[unit].pairs.back();
    units_[unit].pairs.pop_back();
    const std::size_t other = units_.size();
    units_.push_back({.group = group, .predicted = units_[unit].predicted, .pairs = {pair}});
    unit_of_pair_[pair] = other;
    reports_.emplace_back();
    num_crashes_.push_back(0);
    ++num_open_;
    groups_[group].waiting.push_back(other);
  }
  if (!groups_[group].waiting.empty()) {
    enqueue(group, false);
  }
}

void MatchWork::lose(Lease lease, const RunningQuery* query, Loss loss) {
  const auto lost = lent_.extract(lease);
  if (lost.empty()) {
    return;
  }
  if (query != nullptr) {
    blame(*query, loss, lost.mapped().units);
  }
  for (const std::size_t unit : std::views::reverse(lost.mapped().units)) {
    Group& group = groups_[units_[unit].group];
    if (group.gold == Gold::asked || group.gold == Gold::is_volatile) {
      group.gold = Gold::unknown;  // what was known of it is gone
    }
    if (!reports_[unit]) {
      group.waiting.push_front(unit);
    }
    if (!group.waiting.empty()) {
      enqueue(units_[unit].group, true);
    }
  }
}

// Fails a query that was late, or there at too many crashes: a prediction, or a gold with all pairs
// that the lost worker had of it.
void MatchWork::blame(const RunningQuery& query, Loss loss, const std::vector<std::size_t>& units) {
  int& num_crashes =
      query.is_gold ? groups_.at(query.number).num_crashes : num_crashes_.at(query.number);
  if (loss == Loss::crashed && ++num_crashes < kTriesOfCrashes) {
    return;
  }
  const QueryReport report = loss_report(loss, latest_);
  if (query.is_gold) {
    fail_gold(groups_[query.number], report);
    for (const std::size_t unit : units) {
      if (units_[unit].group == query.number && !reports_[unit]) {
        finish(unit, failed_gold(report));
      }
    }
  } else if (!reports_[query.number]) {
    finish(query.number, {.gold_failed = false, .report = report, .outcome = {}});
  }
}

void MatchWork::finish(std::size_t unit, MatchReport report) {
  reports_[unit] = std::move(report);
  --num_open_;
}

void MatchWork::fail_gold(Group& group, const QueryReport& report) {
  for (const std::size_t unit : std::exchange(group.waiting, {})) {
    finish(unit, failed_gold(report));
  }
  if (std::exchange(group.is_queued, false)) {
    std::erase(queue_at(group.place), static_cast<std::size_t>(&group - groups_.data()));
  }
}

}  // namespace finestep

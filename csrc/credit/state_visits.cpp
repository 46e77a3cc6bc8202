#include "credit/state_visits.h"

#include <bit>

namespace finestep {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

// Where the search for a key begins; the number of slots is a power of two.
std::size_t first_slot(std::int64_t key, std::size_t num_slots) {
  const std::uint64_t mixed = static_cast<std::uint64_t>(key) * 0x9e3779b97f4a7c15U;
  return static_cast<std::size_t>(mixed >> 32U) & (num_slots - 1);
}

}  // namespace

void StateVisits::clear(std::size_t num_steps) {
  steps_.clear();
  visits_.clear();
  slots_.assign(std::bit_ceil((2 * num_steps) + 1), Slot{.key = 0, .visit = 0});
}

void StateVisits::add_rollout(std::span<const std::int64_t> step_state) {
  const auto start = static_cast<std::uint32_t>(steps_.size());
  for (const std::int64_t key : step_state) {
    const std::uint32_t first = first_visit(key);
    std::uint32_t visit = first;
    if (visits_[first].rollout_start == start) {
      Step& before = steps_[visits_[first].last_step];
      before.is_last_visit = false;
      visit = visit_after(before.visit);
    } else {
      visits_[first].rollout_start = start;
      ++visits_[first].num_visitors;
    }
    visits_[first].last_step = static_cast<std::uint32_t>(steps_.size());
    steps_.push_back({.visit = visit, .is_last_visit = true});
  }
}

void StateVisits::total(std::span<const double> step_value, double shrinkage) {
  totals_.assign(visits_.size(), 0.0);
  ended_.assign(visits_.size(), 0.0);
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    const Step& step = steps_[s];
    totals_[step.visit] += step_value[s];
    if (step.is_last_visit && visits_[step.visit].next != kNone) {
      ended_[visits_[step.visit].next] += step_value[s];
    }
  }
  shares_.resize(visits_.size());
  for (std::size_t number = 0; number < visits_.size(); ++number) {
    const Visit& visit = visits_[number];
    totals_[number] += ended_[number];
    if (visit.next != kNone) {  // a later one has a larger number
      ended_[visit.next] += ended_[number];
    }
    const double weight = visits_[visit.first].num_visitors - 1 + shrinkage;
    shares_[number] = weight == 0 ? 0 : 1 / weight;
  }
}

std::uint32_t StateVisits::first_visit(std::int64_t key) {
  std::size_t place = first_slot(key, slots_.size());
  while (slots_[place].visit != 0) {
    if (slots_[place].key == key) {
      return slots_[place].visit - 1;
    }
    place = (place + 1) & (slots_.size() - 1);
  }
  const auto visit = static_cast<std::uint32_t>(visits_.size());
  visits_.push_back(
      {.first = visit, .next = kNone, .num_visitors = 0, .rollout_start = kNone, .last_step = 0});
  slots_[place] = {.key = key, .visit = visit + 1};
  return visit;
}

std::uint32_t StateVisits::visit_after(std::uint32_t visit) {
  if (visits_[visit].next == kNone) {
    visits_[visit].next = static_cast<std::uint32_t>(visits_.size());
    visits_.push_back({.first = visits_[visit].first,
                       .next = kNone,
                       .num_visitors = 0,
                       .rollout_start = kNone,
                       .last_step = 0});
  }
  return visits_[visit].next;
}

}  // namespace finestep

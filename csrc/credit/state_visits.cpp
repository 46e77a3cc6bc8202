#include "credit/state_visits.h"

#include <bit>

namespace finestep {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

}  // namespace

void StateVisits::clear(std::size_t num_steps) {
  num_steps_ = 0;
  num_visits_ = 0;
  steps_.resize(num_steps);
  visits_.resize(num_steps);
  const std::size_t num_slots = std::bit_ceil((2 * num_steps) + 2);
  shift_ = 64 - static_cast<std::uint32_t>(std::countr_zero(num_slots));
  slots_.assign(num_slots, 0);
  keys_.resize(num_slots);
}

void StateVisits::add_rollout(std::span<const std::int64_t> step_state) {
  const std::uint32_t start = num_steps_;
  for (const std::int64_t key : step_state) {
    const std::uint32_t first = first_visit(key);
    Visit& state = visits_[first];
    std::uint32_t visit = first;
    if (state.rollout_start == start) {
      Step& before = steps_[state.last_step];
      before.is_last_visit = false;
      visit = visit_after(before.visit);
    } else {
      state.rollout_start = start;
      ++state.num_visitors;
    }
    state.last_step = num_steps_;
    steps_[num_steps_++] = {.visit = visit, .is_last_visit = true};
  }
}

void StateVisits::total(std::span<const double> step_value, double shrinkage) {
  totals_.assign(num_visits_, 0.0);
  ended_.assign(num_visits_, 0.0);
  shares_.resize(num_visits_);
  for (std::size_t s = 0; s < num_steps_; ++s) {
    const Step& step = steps_[s];
    totals_[step.visit] += step_value[s];
    if (step.is_last_visit && visits_[step.visit].next != kNone) {
      ended_[visits_[step.visit].next] += step_value[s];
    }
  }
  for (std::size_t number = 0; number < num_visits_; ++number) {
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
  // The upper bits of such a product keep keys apart that follow each other.
  const std::uint64_t mixed = static_cast<std::uint64_t>(key) * 0x9e3779b97f4a7c15U;
  std::size_t place = mixed >> shift_;
  while (slots_[place] != 0) {
    if (keys_[place] == key) {
      return slots_[place] - 1;
    }
    place = (place + 1) & (slots_.size() - 1);
  }
  const std::uint32_t visit = add_visit(num_visits_);
  slots_[place] = visit + 1;
  keys_[place] = key;
  return visit;
}

std::uint32_t StateVisits::visit_after(std::uint32_t visit) {
  if (visits_[visit].next == kNone) {
    visits_[visit].next = add_visit(visits_[visit].first);
  }
  return visits_[visit].next;
}

std::uint32_t StateVisits::add_visit(std::uint32_t first) {
  visits_[num_visits_] = {
      .first = first, .next = kNone, .num_visitors = 0, .rollout_start = kNone, .last_step = 0};
  return num_visits_++;
}

}  // namespace finestep

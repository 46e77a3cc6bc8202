#include "credit/state_visits.h"

#include <algorithm>

namespace finestep {
namespace {

constexpr std::size_t kFirstSlots = 64;
constexpr std::uint32_t kNone = ~std::uint32_t{0};

// Where the search for a key begins; the number of slots is a power of two.
std::size_t first_slot(std::int64_t key, std::size_t num_slots) {
  const std::uint64_t mixed = static_cast<std::uint64_t>(key) * 0x9e3779b97f4a7c15U;
  return static_cast<std::size_t>(mixed >> 32U) & (num_slots - 1);
}

}  // namespace

void StateVisits::clear() {
  for (const State& state : states_) {
    slots_[state.slot].number = 0;
  }
  steps_.clear();
  states_.clear();
}

void StateVisits::add_rollout(std::span<const std::int64_t> step_state) {
  const auto first = static_cast<std::uint32_t>(steps_.size());
  for (const std::int64_t key : step_state) {
    const std::uint32_t number = state_of(key);
    State& state = states_[number];
    std::uint32_t visit = 0;
    if (state.first_step == first) {
      visit = steps_[state.last_step].visit + 1;
      steps_[state.last_step].is_last_visit = false;
    } else {
      state.first_step = first;
      ++state.num_visitors;
    }
    state.last_step = static_cast<std::uint32_t>(steps_.size());
    state.most_visits = std::max(state.most_visits, visit + 1);
    steps_.push_back({.state = number, .visit = visit, .is_last_visit = true});
  }
}

void StateVisits::total(std::span<const double> step_value, double pseudo) {
  std::uint32_t place = 0;
  for (State& state : states_) {
    state.first_total = place;
    place += state.most_visits;
    const double others = (static_cast<double>(state.num_visitors) - 1) + pseudo;
    state.share = others == 0 ? 0 : 1 / others;
  }
  totals_.assign(place, 0.0);
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    const State& state = states_[steps_[s].state];
    const std::uint32_t end = steps_[s].is_last_visit ? state.most_visits : steps_[s].visit + 1;
    for (std::uint32_t visit = steps_[s].visit; visit < end; ++visit) {
      totals_[state.first_total + visit] += step_value[s];
    }
  }
}

std::uint32_t StateVisits::state_of(std::int64_t key) {
  if (2 * (states_.size() + 1) > slots_.size()) {
    grow();
  }
  std::size_t place = first_slot(key, slots_.size());
  while (slots_[place].number != 0) {
    if (slots_[place].key == key) {
      return slots_[place].number - 1;
    }
    place = (place + 1) & (slots_.size() - 1);
  }
  states_.push_back({.share = 0,
                     .slot = static_cast<std::uint32_t>(place),
                     .num_visitors = 0,
                     .most_visits = 0,
                     .first_step = kNone,
                     .last_step = 0,
                     .first_total = 0});
  slots_[place] = {.key = key, .number = static_cast<std::uint32_t>(states_.size())};
  return slots_[place].number - 1;
}

void StateVisits::grow() {
  std::vector<Slot> before(std::max(kFirstSlots, 2 * slots_.size()), Slot{.key = 0, .number = 0});
  before.swap(slots_);
  for (const Slot& slot : before) {
    if (slot.number != 0) {
      std::size_t place = first_slot(slot.key, slots_.size());
      while (slots_[place].number != 0) {
        place = (place + 1) & (slots_.size() - 1);
      }
      slots_[place] = slot;
      states_[slot.number - 1].slot = static_cast<std::uint32_t>(place);
    }
  }
}

}  // namespace finestep

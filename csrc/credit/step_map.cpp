#include "credit/step_map.h"

#include <stdexcept>

namespace finestep {

void check_spans(const StepMap& map) {
  if (map.step_end.size() != map.step_start.size()) {
    throw std::out_of_range("step_end has another length than step_start");
  }
  bool inside = true;
  for (std::size_t s = 0; s < map.step_start.size(); ++s) {
    inside &= 0 <= map.step_start[s] && map.step_start[s] < map.step_end[s] &&
              map.step_end[s] <= map.num_tokens;
  }
  if (!inside) {
    throw std::out_of_range("a step is empty or lies outside the token axis");
  }
}

void check_offsets(std::span<const std::int64_t> offsets, std::int64_t total) {
  const bool ends_fit = !offsets.empty() && offsets.front() == 0 && offsets.back() == total;
  if (!ends_fit || !std::ranges::is_sorted(offsets)) {
    throw std::out_of_range("offsets do not ascend from 0 to the number of parts");
  }
}

std::vector<std::int64_t> policy_offsets(const StepMap& map) {
  std::vector<std::int64_t> offsets(map.step_start.size() + 1, 0);
  for (std::size_t s = 0; s < map.step_start.size(); ++s) {
    offsets[s + 1] = offsets[s] + (map.step_end[s] - map.step_start[s]);
  }
  return offsets;
}

}  // namespace finestep

#include "credit/group_map.h"

#include <algorithm>
#include <stdexcept>

#include "credit/step_map.h"

namespace finestep {

void check_groups(const GroupMap& map, std::int64_t num_steps) {
  check_offsets(map.step_offsets, num_steps);
  const auto num_rollouts = static_cast<std::int64_t>(map.step_offsets.size()) - 1;
  check_offsets(map.group_offsets, num_rollouts);
  const auto is_rollout = [&](std::int64_t r) { return 0 <= r && r < num_rollouts; };
  if (std::ssize(map.group_rollouts) != num_rollouts ||
      !std::ranges::all_of(map.group_rollouts, is_rollout)) {
    throw std::out_of_range("group_rollouts holds something that is no rollout");
  }
}

}  // namespace finestep

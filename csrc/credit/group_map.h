// Which steps belong to which rollout and group.
#pragma once

#include <cstdint>
#include <span>

namespace finestep {

// Steps -> rollouts -> groups.
struct GroupMap {
  std::span<const std::int64_t> step_offsets;    // [R+1] the steps of a rollout
  std::span<const std::int64_t> group_offsets;   // [G+1] the places of a group in group_rollouts
  std::span<const std::int64_t> group_rollouts;  // [R]
};

// Throws std::out_of_range where an index could lead outside the arrays.
void check_groups(const GroupMap& map, std::int64_t num_steps);

}  // namespace finestep

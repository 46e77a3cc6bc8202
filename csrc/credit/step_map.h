// Which tokens belong to which step and rollout, and how to walk over the policy tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace finestep {

// Tokens -> steps -> rollouts. Policy tokens are the tokens inside steps; they are numbered step
// after step, wherever those lie on the token axis.
struct StepMap {
  std::span<const std::int64_t> step_start;    // [S] first token of a step
  std::span<const std::int64_t> step_end;      // [S] one past its last
  std::span<const std::int64_t> step_offsets;  // [R+1] the steps of a rollout
  std::int64_t num_tokens = 0;                 // T

  [[nodiscard]] std::int64_t num_steps() const {
    return static_cast<std::int64_t>(step_start.size());
  }
  [[nodiscard]] std::int64_t num_rollouts() const {
    return static_cast<std::int64_t>(step_offsets.size()) - 1;
  }
};

// Throws std::out_of_range where a position could lead outside the arrays.
void check_spans(const StepMap& map);

// The same for offsets[0] == 0 <= ... <= offsets.back() == total.
void check_offsets(std::span<const std::int64_t> offsets, std::int64_t total);

// [S+1]: the policy tokens of step s are those numbered from [s] to [s + 1] - 1.
std::vector<std::int64_t> policy_offsets(const StepMap& map);

// `count` tokens of one step; the first lies `place` policy tokens after a given one.
struct Run {
  std::int64_t place;
  std::int64_t count;
};

// Calls work(step, token, run) for each run of policy tokens numbered from `first` to `last` - 1
// that lies in one step; it begins at `token` on the token axis, and `run.place` after `first`.
template <typename Work>
void for_each_run(const StepMap& map, std::span<const std::int64_t> policy_offset,
                  std::int64_t first, std::int64_t last, const Work& work) {
  auto step = std::ranges::upper_bound(policy_offset, first) - policy_offset.begin() - 1;
  for (std::int64_t at = first; at < last; ++step) {
    const auto s = static_cast<std::size_t>(step);
    const std::int64_t until = std::min(last, policy_offset[s + 1]);
    work(s, map.step_start[s] + (at - policy_offset[s]),
         Run{.place = at - first, .count = until - at});
    at = until;
  }
}

}  // namespace finestep

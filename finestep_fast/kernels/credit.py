"""Credit on the device: what the steps of one rollout are worth, from the rewards of its group.

Device functions and their constants; the kernels that call them are `step_advantage` and `loss`. A
program reads the table of its group, [rollouts, positions], a tile of rollouts at a time. The
table is small (16 rollouts of 8 steps are 128 numbers, all in the caches), so each program of a
group works it out again: more arithmetic, but no second launch and no grid-wide barrier. The
arithmetic is float64 from the first addition: on a table of this size that costs nothing, and its
sums round to the same float32 in whatever order they are taken.

Per program it reads 4 bytes for each step and 28 for each rollout of its group, and writes 4 for
each step of its own rollout: nothing beside the tokens of the policy loss.

What `finestep_fast.reference.credit` says and why is not repeated here.
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.comparison import group_relative
from finestep_fast.kernels.settings import (
    ADVANTAGE_CLIP,
    NO_SCOPE,
    OUTCOME_WEIGHT,
    PROCESS_WEIGHT,
    ROLLOUT_WEIGHT,
    STATE,
    STD_FLOOR,
    STEP_WEIGHT,
    TRAJECTORY,
    VALUE,
)
from finestep_fast.kernels.state import state_relative
from finestep_fast.kernels.value import value_credit


@triton.jit
def rollout_advantage(
    i_place,
    reward_ptr,
    outcome_ptr,
    state_ptr,  # [S], or None
    value_ptr,  # [S], or None
    step_offsets_ptr,
    group_offsets_ptr,
    group_rollouts_ptr,
    setting_ptr,
    num_groups,
    max_rollout_steps,
    SCOPE: tl.constexpr,
    WITH_TRAJECTORY: tl.constexpr,
    DECOUPLED: tl.constexpr,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return the advantages [POSITIONS] float64 of the rollout at `group_rollouts[i_place]`."""
    i_group = _group_of_place(i_place, group_offsets_ptr, num_groups)
    first = tl.load(group_offsets_ptr + i_group)
    last = tl.load(group_offsets_ptr + i_group + 1)
    rewards = (reward_ptr, outcome_ptr, step_offsets_ptr, group_rollouts_ptr, max_rollout_steps)
    group = (i_place, first, last)
    advantage = tl.zeros([POSITIONS], tl.float64)
    if SCOPE == VALUE:
        by_step = value_credit(value_ptr, rewards, group, setting_ptr, POSITIONS)
        advantage += tl.load(setting_ptr + STEP_WEIGHT) * by_step
    elif SCOPE != NO_SCOPE:
        advantage += tl.load(setting_ptr + STEP_WEIGHT) * _over_channels(
            state_ptr, rewards, group, setting_ptr, SCOPE, DECOUPLED, POSITIONS, TILE
        )
    if WITH_TRAJECTORY:
        advantage += tl.load(setting_ptr + ROLLOUT_WEIGHT) * _over_channels(
            None, rewards, group, setting_ptr, TRAJECTORY, DECOUPLED, POSITIONS, TILE
        )
    clip = tl.load(setting_ptr + ADVANTAGE_CLIP)
    advantage = tl.where(advantage > clip, clip, advantage)  # a NaN stays one
    return tl.where(advantage < -clip, -clip, advantage)


@triton.jit
def _group_of_place(i_place, group_offsets_ptr, num_groups):
    """Return the group that holds a place of `group_rollouts`: how many groups end before it."""
    o_group = tl.arange(0, 256)
    ended = tl.zeros([256], tl.int32)
    for i_group in range(0, num_groups, 256):
        m_group = i_group + o_group < num_groups
        end = tl.load(group_offsets_ptr + 1 + i_group + o_group, mask=m_group, other=i_place + 1)
        ended += (end <= i_place).to(tl.int32)
    return tl.sum(ended, axis=0)


@triton.jit
def _over_channels(
    state_ptr,
    rewards,
    group,
    setting_ptr,
    SCOPE: tl.constexpr,
    DECOUPLED: tl.constexpr,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Compare the mixed return, or both returns apart."""
    process_weight = tl.load(setting_ptr + PROCESS_WEIGHT)
    outcome_weight = tl.load(setting_ptr + OUTCOME_WEIGHT)
    std_floor = tl.load(setting_ptr + STD_FLOOR)
    if DECOUPLED:
        advantage = tl.zeros([POSITIONS], tl.float64)
        for i_channel in range(2):
            by_outcome = tl.full((), 0.0, tl.float64) + i_channel
            by_process = 1.0 - by_outcome
            weight = by_process * process_weight + by_outcome * outcome_weight
            advantage += weight * _compared(
                state_ptr,
                rewards,
                group,
                setting_ptr,
                by_process,
                by_outcome,
                std_floor,
                SCOPE,
                POSITIONS,
                TILE,
            )
    else:
        std_floor *= outcome_weight
        advantage = _compared(
            state_ptr,
            rewards,
            group,
            setting_ptr,
            process_weight,
            outcome_weight,
            std_floor,
            SCOPE,
            POSITIONS,
            TILE,
        )
    return advantage


@triton.jit
def _compared(
    state_ptr,
    rewards,
    group,
    setting_ptr,
    process_weight,
    outcome_weight,
    std_floor,
    SCOPE: tl.constexpr,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Compare one return, as the scope says."""
    if SCOPE == STATE:
        advantage = state_relative(
            state_ptr,
            rewards,
            group,
            setting_ptr,
            process_weight,
            outcome_weight,
            std_floor,
            POSITIONS,
            TILE,
        )
    else:
        advantage = group_relative(
            rewards,
            group,
            setting_ptr,
            process_weight,
            outcome_weight,
            std_floor,
            SCOPE,
            POSITIONS,
            TILE,
        )
    return advantage

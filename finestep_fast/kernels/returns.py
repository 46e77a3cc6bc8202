"""Returns on the device: a tile of rollouts of a group, [TILE, POSITIONS], and their roundings.

Device functions; `comparison` and `state` call them. `rewards` is a tuple everywhere: the pointers
to rewards, outcomes, step offsets and the rollouts of the groups, and the steps of the longest
rollout. `group` is one, too: the place of the program's rollout, the first place of its group and
one past the last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.settings import (
    BASELINE,
    OUTCOME_DISCOUNT,
    PER_INDEX,
    PROCESS_DISCOUNT,
    SMOOTHING,
)


@triton.jit
def rollout_tile(rewards, i_tile, last, TILE: tl.constexpr):
    """Return places, first steps, numbers of steps and outcomes (float64) of rollouts, [TILE].

    Behind the end of the group stand rollouts without steps.
    """
    _, outcome_ptr, step_offsets_ptr, group_rollouts_ptr, _ = rewards
    o_place = i_tile + tl.arange(0, TILE)
    m_place = o_place < last
    rollout = tl.load(group_rollouts_ptr + o_place, mask=m_place, other=0)
    step = tl.load(step_offsets_ptr + rollout, mask=m_place, other=0)
    num_steps = tl.load(step_offsets_ptr + rollout + 1, mask=m_place, other=0) - step
    outcome = tl.load(outcome_ptr + rollout, mask=m_place, other=0.0).to(tl.float64)
    return o_place, step, num_steps, outcome


@triton.jit
def process_reward(reward_ptr, step, num_steps, i_step, baseline):
    """Return the process rewards [TILE] of one position, minus the baseline; 0 where none is."""
    m_step = i_step < num_steps
    reward = tl.load(reward_ptr + step + i_step, mask=m_step, other=0.0).to(tl.float64)
    return tl.where(m_step, reward - baseline, 0.0)


@triton.jit
def totals(rewards, setting_ptr, step, num_steps, outcome, process_weight):
    """Return the undiscounted sums of rollouts [TILE], of weighted outcomes [TILE]."""
    reward_ptr, max_rollout_steps = rewards[0], rewards[4]
    baseline = tl.load(setting_ptr + BASELINE)
    total = outcome
    for i_step in range(max_rollout_steps):
        total += process_weight * process_reward(reward_ptr, step, num_steps, i_step, baseline)
    return total


@triton.jit
def returns_to_go(
    rewards, setting_ptr, step, num_steps, outcome, process_weight, POSITIONS: tl.constexpr
):
    """Return smoothed returns [TILE, POSITIONS] of weighted outcomes [TILE].

    They have no meaning after the end of a rollout. The smoothed return needs sums in both
    directions, but no second pass over the returns: with b = 1 - alpha,
    `Q~_s = c_s Q_s + sum over k < s of b^(s-k) c_k p_k`, where `c_0 = 1` and
    `c_s = alpha + b gamma c_(s-1)` is what the returns before s contribute of Q_s. An outcome is
    only ever ahead: it has the first term alone, with a `c` for its own discount.
    """
    reward_ptr, max_rollout_steps = rewards[0], rewards[4]
    baseline = tl.load(setting_ptr + BASELINE)
    process_discount = tl.load(setting_ptr + PROCESS_DISCOUNT)
    outcome_discount = tl.load(setting_ptr + OUTCOME_DISCOUNT)
    smoothing = tl.load(setting_ptr + SMOOTHING)
    o_position = tl.arange(0, POSITIONS)[None, :]
    earned = tl.zeros([step.shape[0], POSITIONS], tl.float64)
    awaited = tl.zeros([step.shape[0], POSITIONS], tl.float64)
    to_earn = tl.zeros_like(outcome)
    to_await = tl.zeros_like(outcome)
    for i_back in range(max_rollout_steps):
        i_step = max_rollout_steps - 1 - i_back
        process = process_reward(reward_ptr, step, num_steps, i_step, baseline)
        to_earn = process_weight * process + process_discount * to_earn
        to_await = tl.where(i_step == num_steps - 1, outcome, outcome_discount * to_await)
        earned = tl.where(o_position == i_step, to_earn[:, None], earned)
        awaited = tl.where(o_position == i_step, to_await[:, None], awaited)
    value = earned + awaited
    if smoothing != 1.0:
        past = tl.zeros_like(outcome)
        of_process = past + 1.0
        of_outcome = past + 1.0
        value = tl.zeros_like(earned)
        for i_step in range(max_rollout_steps):
            here = past[:, None] + of_process[:, None] * earned + of_outcome[:, None] * awaited
            value = tl.where(o_position == i_step, here, value)
            process = process_reward(reward_ptr, step, num_steps, i_step, baseline)
            past = (1.0 - smoothing) * (past + of_process * (process_weight * process))
            of_process = smoothing + (1.0 - smoothing) * process_discount * of_process
            of_outcome = smoothing + (1.0 - smoothing) * outcome_discount * of_outcome
    return value


@triton.jit
def at_position(value, i_position, POSITIONS: tl.constexpr):
    """Return one column [TILE] of values [TILE, POSITIONS]; `i_position` is a number or [TILE]."""
    o_position = tl.arange(0, POSITIONS)[None, :]
    return tl.sum(tl.where(o_position == i_position, value, 0.0), axis=1)


@triton.jit
def carried(value, num_steps, POSITIONS: tl.constexpr):
    """Return where rollouts stand [TILE, POSITIONS]: after its end, one stands where it ended."""
    o_position = tl.arange(0, POSITIONS)[None, :]
    end = at_position(value, num_steps[:, None] - 1, POSITIONS)
    return tl.where(o_position < num_steps[:, None], value, end[:, None])


@triton.jit
def rounding(
    rewards,
    group,
    setting_ptr,
    process_weight,
    outcome_weight,
    SCOPE: tl.constexpr,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return how far apart roundings take values of the same comparison set, [POSITIONS].

    A pass over the group of its own: within that over the values, registers would spill.
    """
    reward_ptr, max_rollout_steps = rewards[0], rewards[4]
    first, last = group[1], group[2]
    baseline = tl.load(setting_ptr + BASELINE)
    largest = tl.zeros([POSITIONS], tl.float64)
    for i_tile in range(first, last, TILE):
        _, step, num_steps, outcome = rollout_tile(rewards, i_tile, last, TILE)
        process_size = baseline * num_steps.to(tl.float64)
        for i_step in range(max_rollout_steps):
            process_size += tl.abs(process_reward(reward_ptr, step, num_steps, i_step, 0.0))
        size = process_weight * process_size + outcome_weight * tl.abs(outcome)
        size = (16 + 4 * num_steps).to(tl.float64) * size
        position = tl.arange(0, POSITIONS)[None, :] if SCOPE == PER_INDEX else 0
        m_value = num_steps[:, None] > position
        largest = tl.maximum(largest, tl.max(tl.where(m_value, size[:, None], 0.0), axis=0))
    return machine_epsilon(reward_ptr) * largest


@triton.jit
def machine_epsilon(reward_ptr):
    """Return the distance of numbers around 1 in the dtype of the rewards."""
    if reward_ptr.dtype.element_ty == tl.float64:
        epsilon = 2.220446049250313e-16
    else:
        epsilon = 1.1920928955078125e-07
    return epsilon

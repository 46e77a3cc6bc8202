"""Scope `state` on the device: a step against what other rollouts got from the same state.

Keys are compared in the table of the group, a tile of rollouts at a time: nothing is sorted, and
nothing is prepared before the launch. 8 bytes more are read for each step of the group.
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.comparison import put_together, standard_deviation
from finestep_fast.kernels.returns import (
    at_position,
    carried,
    returns_to_go,
    rollout_tile,
    rounding,
)
from finestep_fast.kernels.settings import DDOF, EPSILON, STATE, STATE_SHRINKAGE


@triton.jit
def state_relative(
    state_ptr,
    rewards,
    group,
    setting_ptr,
    process_weight,
    outcome_weight,
    std_floor,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return the rollout's values against their baselines, by position [POSITIONS]."""
    _, _, step_offsets_ptr, group_rollouts_ptr, _ = rewards
    i_place, first, last = group
    o_position = tl.arange(0, POSITIONS)
    i_rollout = tl.load(group_rollouts_ptr + i_place)
    own_step = tl.load(step_offsets_ptr + i_rollout)
    own_steps = tl.load(step_offsets_ptr + i_rollout + 1) - own_step
    m_position = o_position < own_steps
    key = tl.load(state_ptr + own_step + o_position, mask=m_position, other=0)
    visit = tl.zeros([POSITIONS], tl.int32)
    for i_step in range(own_steps):
        visit += ((tl.load(state_ptr + own_step + i_step) == key) & (i_step < o_position)).to(
            tl.int32
        )

    own = tl.zeros([POSITIONS], tl.float64)
    total = tl.zeros([POSITIONS], tl.float64)
    visitors = tl.zeros([POSITIONS], tl.float64)
    rest = tl.zeros([POSITIONS], tl.float64)
    others = tl.zeros([POSITIONS], tl.float64)
    count = tl.full((), 0.0, tl.float64)
    mean = tl.full((), 0.0, tl.float64)
    square = tl.full((), 0.0, tl.float64)
    for i_tile in range(first, last, TILE):
        o_place, step, num_steps, outcome = rollout_tile(rewards, i_tile, last, TILE)
        value = returns_to_go(
            rewards,
            setting_ptr,
            step,
            num_steps,
            outcome * outcome_weight,
            process_weight,
            POSITIONS,
        )
        m_value = o_position[None, :] < num_steps[:, None]
        value = tl.where(m_value, value, 0.0)
        tile_count = tl.sum(num_steps, axis=0).to(tl.float64)
        tile_mean = tl.sum(tl.sum(value, axis=1), axis=0) / tl.maximum(tile_count, 1.0)
        deviation = tl.where(m_value, value - tile_mean, 0.0)
        tile_square = tl.sum(tl.sum(deviation * deviation, axis=1), axis=0)
        count, mean, square = put_together(count, mean, square, tile_count, tile_mean, tile_square)

        m_own = o_place == i_place
        m_other = (num_steps > 0) & (o_place != i_place)
        own += tl.sum(tl.where(m_own[:, None], value, 0.0), axis=0)
        others += tl.sum(m_other.to(tl.float64), axis=0)
        stand = carried(value, num_steps, POSITIONS)
        rest += tl.sum(tl.where(m_other[:, None], stand, 0.0), axis=0)
        tile_total, tile_visitors = visited(
            state_ptr, key, visit, value, step, tl.where(m_other, num_steps, 0), POSITIONS
        )
        total += tile_total
        visitors += tile_visitors

    pseudo = tl.load(setting_ptr + STATE_SHRINKAGE)
    weight = visitors + pseudo
    baseline = total + pseudo * (rest / tl.maximum(others, 1.0))
    advantage = own - baseline / tl.where(weight > 0.0, weight, 1.0)
    within = rounding(
        rewards, group, setting_ptr, process_weight, outcome_weight, STATE, POSITIONS, TILE
    )
    nothing = (others < 1.0) | (weight == 0.0) | (tl.abs(advantage) <= within)
    if tl.load(setting_ptr + DDOF) >= 0.0:
        std = standard_deviation(square, count, setting_ptr)
        std = tl.where(std < std_floor, std_floor, std) + tl.load(setting_ptr + EPSILON)
        advantage /= tl.where(nothing, 1.0, std)
    return tl.where(nothing, 0.0, advantage)


@triton.jit
def visited(state_ptr, key, visit, value, step, num_steps, POSITIONS: tl.constexpr):
    """Return the sum of what a tile's rollouts got from each state, and how many were in it.

    A rollout counts at its visit of the same number, or at its last one. So its steps are taken in
    order, and each match replaces the one before while those so far are not more than `visit`.

    Args:
        state_ptr: Keys of all steps.
        key: [POSITIONS] states that are looked for.
        visit: [POSITIONS] how many earlier visits each had.
        value: [TILE, POSITIONS] what each rollout got.
        step: [TILE] first steps.
        num_steps: [TILE] numbers of steps; 0 for a rollout that does not count.
        POSITIONS: Of the tile.
    """
    got = tl.zeros_like(value)
    matches = tl.zeros(value.shape, tl.int32)
    for i_step in range(tl.max(num_steps, axis=0)):
        m_step = i_step < num_steps
        other_key = tl.load(state_ptr + step + i_step, mask=m_step, other=0)
        here = at_position(value, i_step, POSITIONS)
        m_same = m_step[:, None] & (other_key[:, None] == key[None, :])
        got = tl.where(m_same & (matches <= visit[None, :]), here[:, None], got)
        matches += m_same.to(tl.int32)
    return tl.sum(got, axis=0), tl.sum((matches > 0).to(tl.float64), axis=0)

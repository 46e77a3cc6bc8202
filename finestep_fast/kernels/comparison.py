"""Comparison on the device: a rollout's values against those of its group.

The scopes pooled, per_index and trajectory. The letters of the tuples are those of `returns`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.returns import carried, returns_to_go, rollout_tile, rounding, totals
from finestep_fast.kernels.settings import (
    DDOF,
    EPSILON,
    LEAVE_ONE_OUT,
    POOLED,
    TRAJECTORY,
)


@triton.jit
def group_relative(
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
    """Return the rollout's values against those of their comparison sets, by position.

    Count, mean and sum of squared deviations of each set are taken tile by tile and put together
    (Chan, Golub, LeVeque 1983), so that a group of any size is read once. All are [POSITIONS]; for
    a scope without positions all entries are alike.
    """
    i_place, first, last = group
    o_position = tl.arange(0, POSITIONS)[None, :]
    own = tl.zeros([POSITIONS], tl.float64)
    count = tl.zeros([POSITIONS], tl.float64)
    mean = tl.zeros([POSITIONS], tl.float64)
    square = tl.zeros([POSITIONS], tl.float64)
    low = tl.full([POSITIONS], float("inf"), tl.float64)
    high = tl.full([POSITIONS], float("-inf"), tl.float64)
    for i_tile in range(first, last, TILE):
        o_place, step, num_steps, outcome = rollout_tile(rewards, i_tile, last, TILE)
        outcome *= outcome_weight
        m_value = tl.broadcast_to((num_steps > 0)[:, None], TILE, POSITIONS)
        if SCOPE == TRAJECTORY:
            total = totals(rewards, setting_ptr, step, num_steps, outcome, process_weight)
            value = tl.broadcast_to(total[:, None], TILE, POSITIONS)
        else:
            value = returns_to_go(
                rewards, setting_ptr, step, num_steps, outcome, process_weight, POSITIONS
            )
            if SCOPE == POOLED:
                value = carried(value, num_steps, POSITIONS)
            else:
                m_value = o_position < num_steps[:, None]
        m_own = m_value & (o_place == i_place)[:, None]
        own += tl.sum(tl.where(m_own, value, 0.0), axis=0)

        tile_count = tl.sum(m_value.to(tl.float64), axis=0)
        tile_sum = tl.sum(tl.where(m_value, value, 0.0), axis=0)
        tile_mean = tile_sum / tl.maximum(tile_count, 1.0)
        deviation = tl.where(m_value, value - tile_mean[None, :], 0.0)
        tile_square = tl.sum(deviation * deviation, axis=0)
        count, mean, square = put_together(count, mean, square, tile_count, tile_mean, tile_square)
        low = tl.minimum(low, tl.min(tl.where(m_value, value, float("inf")), axis=0))
        high = tl.maximum(high, tl.max(tl.where(m_value, value, float("-inf")), axis=0))

    advantage = own - mean
    if tl.load(setting_ptr + LEAVE_ONE_OUT) != 0.0:
        advantage *= count / tl.maximum(count - 1.0, 1.0)
    within = rounding(
        rewards, group, setting_ptr, process_weight, outcome_weight, SCOPE, POSITIONS, TILE
    )
    # Of NaNs, minimum and maximum see nothing; the squares do.
    alike = (count < 2.0) | ((high - low <= within) & (square == square))
    if tl.load(setting_ptr + DDOF) >= 0.0:
        std = standard_deviation(square, count, setting_ptr)
        std = tl.where(std < std_floor, std_floor, std) + tl.load(setting_ptr + EPSILON)
        advantage /= tl.where(alike, 1.0, std)
    return tl.where(alike, 0.0, advantage)


@triton.jit
def put_together(count, mean, square, more_count, more_mean, more_square):
    """Return count, mean and sum of squared deviations of two sets in one."""
    total_count = count + more_count
    share = more_count / tl.maximum(total_count, 1.0)
    shift = more_mean - mean
    square += more_square + shift * shift * count * share
    return total_count, mean + shift * share, square


@triton.jit
def standard_deviation(square, count, setting_ptr):
    """Return the sample or population standard deviation; 0 for fewer than 2 deviations."""
    is_sample = tl.load(setting_ptr + DDOF) == 1.0
    freedom = tl.where(is_sample, count - 1.0, count)
    return tl.sqrt(square / tl.maximum(freedom, 1.0))

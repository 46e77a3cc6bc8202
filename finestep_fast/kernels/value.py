"""Scope `value` on the device: what each step of a rollout adds to an estimate of the outcome.

Of the group only the outcomes are read. The letters of the tuples are those of `returns`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.comparison import put_together, standard_deviation
from finestep_fast.kernels.returns import machine_epsilon, process_reward, rollout_tile
from finestep_fast.kernels.settings import (
    BASELINE,
    DDOF,
    EPSILON,
    GAE_LAMBDA,
    OUTCOME_DISCOUNT,
    OUTCOME_WEIGHT,
    PROCESS_DISCOUNT,
    PROCESS_WEIGHT,
    STD_FLOOR,
)


@triton.jit
def value_credit(value_ptr, rewards, group, setting_ptr, POSITIONS: tl.constexpr):
    """Return the rollout's differences of value and the cost of its flaws, [POSITIONS]."""
    reward_ptr, outcome_ptr, step_offsets_ptr, group_rollouts_ptr, _ = rewards
    i_rollout = tl.load(group_rollouts_ptr + group[0])
    step = tl.load(step_offsets_ptr + i_rollout)
    num_steps = tl.load(step_offsets_ptr + i_rollout + 1) - step
    baseline = tl.load(setting_ptr + BASELINE)
    process_discount = tl.load(setting_ptr + PROCESS_DISCOUNT)
    outcome_discount = tl.load(setting_ptr + OUTCOME_DISCOUNT)
    gain_discount = outcome_discount * tl.load(setting_ptr + GAE_LAMBDA)
    o_position = tl.arange(0, POSITIONS)
    gained = tl.zeros([POSITIONS], tl.float64)
    paid = tl.zeros([POSITIONS], tl.float64)
    gain = tl.full((), 0.0, tl.float64)
    pay = tl.full((), 0.0, tl.float64)
    after = tl.load(outcome_ptr + i_rollout).to(tl.float64)
    for i_back in range(num_steps):
        i_step = num_steps - 1 - i_back
        value = tl.load(value_ptr + step + i_step).to(tl.float64)
        gain = after - value + gain_discount * gain
        pay = process_reward(reward_ptr, step, num_steps, i_step, baseline) + process_discount * pay
        gained = tl.where(o_position == i_step, gain, gained)
        paid = tl.where(o_position == i_step, pay, paid)
        after = outcome_discount * value
    gained *= outcome_scale(rewards, group, setting_ptr, POSITIONS)
    outcome_weight = tl.load(setting_ptr + OUTCOME_WEIGHT)
    return outcome_weight * gained + tl.load(setting_ptr + PROCESS_WEIGHT) * paid


@triton.jit
def outcome_scale(rewards, group, setting_ptr, TILE: tl.constexpr):
    """Return what differences are multiplied by: 1 over the spread of the group's outcomes."""
    first, last = group[1], group[2]
    count = tl.full((), 0.0, tl.float64)
    mean = tl.full((), 0.0, tl.float64)
    square = tl.full((), 0.0, tl.float64)
    low = tl.full((), float("inf"), tl.float64)
    high = tl.full((), float("-inf"), tl.float64)
    within = tl.full((), 0.0, tl.float64)
    for i_tile in range(first, last, TILE):
        _, _, num_steps, outcome = rollout_tile(rewards, i_tile, last, TILE)
        m_value = num_steps > 0
        tile_count = tl.sum(m_value.to(tl.float64), axis=0)
        tile_sum = tl.sum(tl.where(m_value, outcome, 0.0), axis=0)
        tile_mean = tile_sum / tl.maximum(tile_count, 1.0)
        deviation = tl.where(m_value, outcome - tile_mean, 0.0)
        tile_square = tl.sum(deviation * deviation, axis=0)
        count, mean, square = put_together(count, mean, square, tile_count, tile_mean, tile_square)
        low = tl.minimum(low, tl.min(tl.where(m_value, outcome, float("inf")), axis=0))
        high = tl.maximum(high, tl.max(tl.where(m_value, outcome, float("-inf")), axis=0))
        size = (16 + 4 * num_steps).to(tl.float64) * tl.abs(outcome)
        within = tl.maximum(within, tl.max(tl.where(m_value, size, 0.0), axis=0))

    scale = tl.full((), 1.0, tl.float64)
    if tl.load(setting_ptr + DDOF) >= 0.0:
        std = standard_deviation(square, count, setting_ptr)
        # Of NaNs, minimum and maximum see nothing; the squares do.
        alike = (high - low <= machine_epsilon(rewards[0]) * within) & (square == square)
        std = tl.where(alike, 0.0, std)
        std_floor = tl.load(setting_ptr + STD_FLOOR)
        std = tl.where(std < std_floor, std_floor, std)
        divisor = std + tl.load(setting_ptr + EPSILON)
        scale = tl.where(std == 0.0, 0.0, 1.0 / tl.where(std == 0.0, 1.0, divisor))
    return scale

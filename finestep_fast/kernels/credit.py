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

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from finestep_fast.config import CreditConfig

TILES = ((8, 16), (32, 4), (128, 2), (512, 1))
"""Positions (steps of the longest rollout, at most) and rollouts of a tile. Longer rollouts are
taken one by one; from about 1000 steps on some registers spill."""

SETTINGS = (
    "process_baseline",
    "process_weight",
    "outcome_weight",
    "process_discount",
    "outcome_discount",
    "smoothing",
    "std_floor",
    "epsilon",
    "step_weight",
    "rollout_weight",
    "advantage_clip",
    "ddof",
    "leave_one_out",
)
"""What the kernels read of a `CreditConfig`, as float64; `ddof` is -1 for mean only."""
BASELINE = tl.constexpr(0)
PROCESS_WEIGHT = tl.constexpr(1)
OUTCOME_WEIGHT = tl.constexpr(2)
PROCESS_DISCOUNT = tl.constexpr(3)
OUTCOME_DISCOUNT = tl.constexpr(4)
SMOOTHING = tl.constexpr(5)
STD_FLOOR = tl.constexpr(6)
EPSILON = tl.constexpr(7)
STEP_WEIGHT = tl.constexpr(8)
ROLLOUT_WEIGHT = tl.constexpr(9)
ADVANTAGE_CLIP = tl.constexpr(10)
DDOF = tl.constexpr(11)
LEAVE_ONE_OUT = tl.constexpr(12)

POOLED = tl.constexpr(0)
PER_INDEX = tl.constexpr(1)
TRAJECTORY = tl.constexpr(2)
NO_SCOPE = tl.constexpr(3)
SCOPES = {"pooled": 0, "per_index": 1, "trajectory": 2}
DDOFS = {"sample": 1, "population": 0, "none": -1}


@triton.jit
def rollout_advantage(
    i_place,
    reward_ptr,
    outcome_ptr,
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
    if SCOPE != NO_SCOPE:
        advantage += tl.load(setting_ptr + STEP_WEIGHT) * _over_channels(
            rewards, group, setting_ptr, SCOPE, DECOUPLED, POSITIONS, TILE
        )
    if WITH_TRAJECTORY:
        advantage += tl.load(setting_ptr + ROLLOUT_WEIGHT) * _over_channels(
            rewards, group, setting_ptr, TRAJECTORY, DECOUPLED, POSITIONS, TILE
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
            advantage += weight * _group_relative(
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
        advantage = _group_relative(
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
def _group_relative(
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
    reward_ptr, outcome_ptr, step_offsets_ptr, group_rollouts_ptr, max_rollout_steps = rewards
    i_place, first, last = group
    own = tl.zeros([POSITIONS], tl.float64)
    count = tl.zeros([POSITIONS], tl.float64)
    mean = tl.zeros([POSITIONS], tl.float64)
    square = tl.zeros([POSITIONS], tl.float64)
    low = tl.full([POSITIONS], float("inf"), tl.float64)
    high = tl.full([POSITIONS], float("-inf"), tl.float64)
    for i_tile in range(first, last, TILE):
        o_place = i_tile + tl.arange(0, TILE)
        m_place = o_place < last
        rollout = tl.load(group_rollouts_ptr + o_place, mask=m_place, other=0)
        step = tl.load(step_offsets_ptr + rollout, mask=m_place, other=0)
        num_steps = tl.load(step_offsets_ptr + rollout + 1, mask=m_place, other=0) - step
        outcome = tl.load(outcome_ptr + rollout, mask=m_place, other=0.0).to(tl.float64)
        value, m_value = _values(
            reward_ptr,
            setting_ptr,
            step,
            num_steps,
            outcome * outcome_weight,
            process_weight,
            max_rollout_steps,
            SCOPE,
            POSITIONS,
        )
        m_own = m_value & (o_place == i_place)[:, None]
        own += tl.sum(tl.where(m_own, value, 0.0), axis=0)

        tile_count = _set_sum(m_value.to(tl.float64), SCOPE)
        tile_mean = _set_sum(tl.where(m_value, value, 0.0), SCOPE) / tl.maximum(tile_count, 1.0)
        deviation = tl.where(m_value, value - tile_mean[None, :], 0.0)
        total_count = count + tile_count
        share = tile_count / tl.maximum(total_count, 1.0)
        shift = tile_mean - mean
        square += _set_sum(deviation * deviation, SCOPE) + shift * shift * count * share
        mean += shift * share
        count = total_count
        tile_low = tl.min(tl.where(m_value, value, float("inf")), axis=0)
        tile_high = tl.max(tl.where(m_value, value, float("-inf")), axis=0)
        if SCOPE == POOLED:
            low = tl.minimum(low, tl.min(tile_low, axis=0))
            high = tl.maximum(high, tl.max(tile_high, axis=0))
        else:
            low = tl.minimum(low, tile_low)
            high = tl.maximum(high, tile_high)

    others = tl.maximum(count - 1.0, 1.0)
    advantage = own - mean
    if tl.load(setting_ptr + LEAVE_ONE_OUT) != 0.0:
        advantage *= count / others
    rounding = _rounding(
        rewards, group, setting_ptr, process_weight, outcome_weight, SCOPE, POSITIONS, TILE
    )
    # Of NaNs, minimum and maximum see nothing; the squares do.
    alike = (count < 2.0) | ((high - low <= rounding) & (square == square))
    ddof = tl.load(setting_ptr + DDOF)
    if ddof >= 0.0:
        freedom = tl.where(ddof == 1.0, others, tl.maximum(count, 1.0))
        std = tl.sqrt(square / freedom)
        std = tl.where(std < std_floor, std_floor, std) + tl.load(setting_ptr + EPSILON)
        advantage /= tl.where(alike, 1.0, std)
    return tl.where(alike, 0.0, advantage)


@triton.jit
def _set_sum(value, SCOPE: tl.constexpr):
    """Sum [TILE, POSITIONS] over each comparison set: [POSITIONS]."""
    total = tl.sum(value, axis=0)
    if SCOPE == POOLED:
        total = tl.zeros_like(total) + tl.sum(total, axis=0)
    return total


@triton.jit
def _values(
    reward_ptr,
    setting_ptr,
    step,
    num_steps,
    outcome,
    process_weight,
    max_rollout_steps,
    SCOPE: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Return what is compared [TILE, POSITIONS] and where there is something to compare.

    The smoothed return needs sums in both directions, but no second pass over the returns: with
    b = 1 - alpha, `Q~_s = c_s Q_s + sum over k < s of b^(s-k) c_k p_k`, where `c_0 = 1` and
    `c_s = alpha + b gamma c_(s-1)` is what the returns before s contribute of Q_s. An outcome is
    only ever ahead: it has the first term alone, with a `c` for its own discount.
    """
    baseline = tl.load(setting_ptr + BASELINE)
    o_position = tl.arange(0, POSITIONS)[None, :]
    if SCOPE == TRAJECTORY:
        total = outcome
        for i_step in range(max_rollout_steps):
            total += process_weight * _process(reward_ptr, step, num_steps, i_step, baseline)
        value = tl.broadcast_to(total[:, None], step.shape[0], POSITIONS)
        m_value = tl.broadcast_to((num_steps > 0)[:, None], step.shape[0], POSITIONS)
    else:
        process_discount = tl.load(setting_ptr + PROCESS_DISCOUNT)
        outcome_discount = tl.load(setting_ptr + OUTCOME_DISCOUNT)
        smoothing = tl.load(setting_ptr + SMOOTHING)
        m_value = o_position < num_steps[:, None]
        earned = tl.zeros([step.shape[0], POSITIONS], tl.float64)
        awaited = tl.zeros([step.shape[0], POSITIONS], tl.float64)
        to_earn = tl.zeros_like(outcome)
        to_await = tl.zeros_like(outcome)
        for i_back in range(max_rollout_steps):
            i_step = max_rollout_steps - 1 - i_back
            process = process_weight * _process(reward_ptr, step, num_steps, i_step, baseline)
            to_earn = process + process_discount * to_earn
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
                process = process_weight * _process(reward_ptr, step, num_steps, i_step, baseline)
                past = (1.0 - smoothing) * (past + of_process * process)
                of_process = smoothing + (1.0 - smoothing) * process_discount * of_process
                of_outcome = smoothing + (1.0 - smoothing) * outcome_discount * of_outcome
    return value, m_value


@triton.jit
def _process(reward_ptr, step, num_steps, i_step, baseline):
    """Return the process rewards [TILE] of one position, minus the baseline; 0 where none is."""
    m_step = i_step < num_steps
    reward = tl.load(reward_ptr + step + i_step, mask=m_step, other=0.0).to(tl.float64)
    return tl.where(m_step, reward - baseline, 0.0)


@triton.jit
def _rounding(
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
    reward_ptr, outcome_ptr, step_offsets_ptr, group_rollouts_ptr, max_rollout_steps = rewards
    _, first, last = group
    baseline = tl.load(setting_ptr + BASELINE)
    largest = tl.zeros([POSITIONS], tl.float64)
    for i_tile in range(first, last, TILE):
        o_place = i_tile + tl.arange(0, TILE)
        m_place = o_place < last
        rollout = tl.load(group_rollouts_ptr + o_place, mask=m_place, other=0)
        step = tl.load(step_offsets_ptr + rollout, mask=m_place, other=0)
        num_steps = tl.load(step_offsets_ptr + rollout + 1, mask=m_place, other=0) - step
        outcome = tl.load(outcome_ptr + rollout, mask=m_place, other=0.0).to(tl.float64)
        process_size = baseline * num_steps.to(tl.float64)
        for i_step in range(max_rollout_steps):
            process_size += tl.abs(_process(reward_ptr, step, num_steps, i_step, 0.0))
        size = process_weight * process_size + outcome_weight * tl.abs(outcome)
        size = (16 + 4 * num_steps).to(tl.float64) * size
        position = tl.arange(0, POSITIONS)[None, :] if SCOPE == PER_INDEX else 0
        m_value = num_steps[:, None] > position
        largest = tl.maximum(largest, tl.max(tl.where(m_value, size[:, None], 0.0), axis=0))
    if reward_ptr.dtype.element_ty == tl.float64:
        epsilon = 2.220446049250313e-16
    else:
        epsilon = 1.1920928955078125e-07
    return epsilon * largest


@lru_cache(maxsize=256)
def setting_tensor(credit: CreditConfig, device: torch.device) -> Tensor:
    """Return `SETTINGS` of a config on a device, copied there when first asked for."""
    clip = credit.advantage_clip
    value = {
        **vars(credit),
        "advantage_clip": math.inf if clip is None else clip,
        "ddof": DDOFS[credit.std],
    }
    numbers = [float(value[name]) for name in SETTINGS]
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def credit_constants(credit: CreditConfig, *, max_rollout_steps: int) -> dict[str, int | bool]:
    """Return what the kernels are compiled for: the scope, the channels and the tile."""
    return {
        "SCOPE": SCOPES[credit.scope] if credit.step_weight != 0 else NO_SCOPE.value,
        "WITH_TRAJECTORY": credit.rollout_weight != 0,
        "DECOUPLED": credit.channels == "decoupled",
        **tile_constants(max_rollout_steps),
    }


def tile_constants(max_rollout_steps: int) -> dict[str, int]:
    """Return the tile that holds rollouts of that many steps."""
    for positions, tile in TILES:
        if max_rollout_steps <= positions:
            return {"POSITIONS": positions, "TILE": tile}
    return {"POSITIONS": triton.next_power_of_2(max_rollout_steps), "TILE": 1}


def register_limit(num_registers: int) -> dict[str, int]:
    """Return the compiler option that limits registers per thread; AMD's has none."""
    return {} if torch.version.hip else {"maxnreg": num_registers}

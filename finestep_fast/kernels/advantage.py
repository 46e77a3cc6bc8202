"""`step_advantage` on the device: the credit of all rollouts in one launch, a program for each.

Reads 4 bytes for each step and 28 for each rollout of a group, as often as the group has rollouts
but all except once from the cache; writes 4 for each step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from finestep_fast.arguments import Rewards
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig
from finestep_fast.kernels.credit import rollout_advantage
from finestep_fast.kernels.settings import credit_constants, register_limit, setting_tensor

FEW_STEPS = 32
NUM_WARPS = 2
"""For rollouts of at most FEW_STEPS steps; more have more threads."""
MANY_WARPS = 8
MAX_REGISTERS = 255


@triton.jit(
    do_not_specialize=["num_groups", "max_rollout_steps"],
    do_not_specialize_on_alignment=[
        "advantage_ptr",
        "reward_ptr",
        "outcome_ptr",
        "state_ptr",
        "value_ptr",
        "step_offsets_ptr",
        "group_offsets_ptr",
        "group_rollouts_ptr",
    ],
)
def step_advantage_forward(
    advantage_ptr,
    reward_ptr,
    outcome_ptr,
    state_ptr,
    value_ptr,
    step_offsets_ptr,
    group_offsets_ptr,
    group_rollouts_ptr,
    setting_ptr,
    num_groups: tl.int32,
    max_rollout_steps: tl.int32,
    SCOPE: tl.constexpr,
    WITH_TRAJECTORY: tl.constexpr,
    DECOUPLED: tl.constexpr,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program per rollout, those of a group side by side."""
    i_place = tl.program_id(0)
    advantage = rollout_advantage(
        i_place,
        reward_ptr,
        outcome_ptr,
        state_ptr,
        value_ptr,
        step_offsets_ptr,
        group_offsets_ptr,
        group_rollouts_ptr,
        setting_ptr,
        num_groups,
        max_rollout_steps,
        SCOPE,
        WITH_TRAJECTORY,
        DECOUPLED,
        POSITIONS,
        TILE,
    )
    rollout = tl.load(group_rollouts_ptr + i_place)
    step = tl.load(step_offsets_ptr + rollout)
    num_steps = tl.load(step_offsets_ptr + rollout + 1) - step
    o_position = tl.arange(0, POSITIONS)
    value = advantage.to(advantage_ptr.dtype.element_ty)
    tl.store(advantage_ptr + step + o_position, value, mask=o_position < num_steps)


def step_advantage(rewards: Rewards, batch: StepBatch, *, credit: CreditConfig) -> Tensor:
    """Launch `step_advantage_forward`: rewards [S], outcomes [R] -> [S] advantages."""
    advantage = torch.empty_like(rewards.step_reward)
    if advantage.numel() == 0:
        return advantage
    max_rollout_steps = batch.max_rollout_steps
    with torch.cuda.device_of(advantage):
        step_advantage_forward[(batch.num_rollouts,)](
            advantage,
            *rewards,
            batch.step_offsets,
            batch.group_offsets,
            batch.group_rollouts,
            setting_tensor(credit, advantage.device),
            batch.num_groups,
            max_rollout_steps,
            **credit_constants(credit, max_rollout_steps=max_rollout_steps),
            num_warps=NUM_WARPS if max_rollout_steps <= FEW_STEPS else MANY_WARPS,
            **register_limit(MAX_REGISTERS),
        )
    return advantage

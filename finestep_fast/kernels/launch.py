"""Launches of the policy loss: what the kernels are compiled for, and how many programs run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from finestep_fast.arguments import COUNT_OF_AGGREGATION, Count, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.kernels.loss import RATIOS, policy_loss_forward
from finestep_fast.kernels.reduction import SUMS, reduced
from finestep_fast.kernels.settings import (
    NO_SCOPE,
    credit_constants,
    register_limit,
    setting_tensor,
    tile_constants,
)
from finestep_fast.kernels.tokens import AGGREGATIONS, KLS, NEVER

BLOCK = 256
"""Tokens of one block: enough to keep memory busy, and few are wasted on a step of 50."""
WIDE_BLOCK = 512
"""Tokens of one block where only a mean is taken or zeros are written."""
NUM_WARPS = 4
FEW_REGISTERS, ALL_REGISTERS, FEW_STEPS = 128, 255, 32
"""Per thread and for NVIDIA only: left alone, ptxas aims at fewer and spills some of them. Float64,
rollouts of more than FEW_STEPS steps, credit of two channels apart and of states need all."""
PROGRAMS_WANTED = 1024
"""About as many programs as one device runs at a time."""
PART_SLOTS = 1024
"""Slots of a rollout (its share of the token axis) that are worth a program of their own."""


class Earned(NamedTuple):
    """What advantages are worked out from, in the place of advantages that are given."""

    rewards: Rewards
    credit: CreditConfig


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the gradient before scaling, of logps of a dtype.

    Float32 for float16, in which A / N underflows before the scale of a loss could lift it.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def launched(
    token_logp: Tensor,
    constants: TokenConstants,
    batch: StepBatch,
    advantages: Tensor | Earned,
    *,
    loss: LossConfig,
    divisor: Count | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `policy_loss_forward` and the reduction of its sums.

    Args:
        token_logp: [T].
        constants: [T] each.
        batch: Which tokens belong to which step, rollout and group.
        advantages: [S], or what they are worked out from.
        loss: The settings.
        divisor: What the aggregation divides by, [] where it lies on the device; None for the
            batch's own.
        with_gradient: Whether to write the gradient.

    Returns:
        The loss [], the gradient [T] (empty where it was not asked for) and the metrics, as
        `finestep_fast.kernels.policy_loss` says.
    """
    num_rollouts, num_tokens = batch.num_rollouts, token_logp.numel()
    dtype = torch.promote_types(token_logp.dtype, torch.float32)
    gradient = None
    if with_gradient:
        make = torch.empty_like if batch.steps_ascend and batch.num_steps else torch.zeros_like
        gradient = make(token_logp, dtype=gradient_dtype(token_logp.dtype))
    if batch.num_steps == 0:
        value = token_logp.new_zeros((), dtype=dtype)
        metrics = token_logp.new_zeros(len(SUMS) - 1 + batch.max_rollout_steps, dtype=dtype)
    else:
        needs_all = False
        if isinstance(advantages, Earned):
            step_advantage = torch.empty_like(advantages.rewards.step_reward)
            credit = advantages.credit
            needs_all = credit.channels == "decoupled" or credit.scope == "state"
        else:
            step_advantage = advantages
        parts = num_parts(num_tokens, num_rollouts)
        program_sum = torch.empty(
            len(SUMS), num_rollouts * parts, dtype=torch.float64, device=token_logp.device
        )
        is_small = dtype == torch.float32 and batch.max_rollout_steps <= FEW_STEPS and not needs_all
        with torch.cuda.device_of(token_logp):
            policy_loss_forward[(num_rollouts * parts,)](
                program_sum,
                gradient,
                token_logp,
                *constants,
                batch.step_start,
                batch.step_end,
                batch.step_offsets,
                step_advantage,
                **_reward_arguments(advantages, batch),
                **_loss_arguments(loss, batch, divisor),
                num_tokens=num_tokens,
                num_parts=parts,
                COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
                WITH_ZEROS=batch.steps_ascend,
                BLOCK=BLOCK,
                WIDE_BLOCK=WIDE_BLOCK,
                num_warps=NUM_WARPS,
                **register_limit(FEW_REGISTERS if is_small else ALL_REGISTERS),
            )
            value, metrics = reduced(program_sum, batch, step_advantage, dtype=dtype)
    if gradient is None:
        gradient = token_logp.new_empty(0, dtype=dtype)
    return value, gradient, metrics


def num_parts(num_tokens: int, num_rollouts: int) -> int:
    """Return among how many programs the blocks of each rollout are dealt out."""
    parts = -(-num_tokens // (num_rollouts * PART_SLOTS))
    return max(1, min(PROGRAMS_WANTED // num_rollouts, parts))


def _reward_arguments(advantages: Tensor | Earned, batch: StepBatch) -> dict[str, Any]:
    max_rollout_steps = batch.max_rollout_steps
    if not isinstance(advantages, Earned):
        pointers = (
            "reward",
            "outcome",
            "state",
            "value",
            "group_offsets",
            "group_rollouts",
            "setting",
        )
        return {
            **{f"{name}_ptr": None for name in pointers},
            "num_groups": 0,
            "max_rollout_steps": max_rollout_steps,
            "SCOPE": NO_SCOPE.value,
            "WITH_TRAJECTORY": False,
            "DECOUPLED": False,
            **tile_constants(max_rollout_steps),
        }
    rewards, credit = advantages
    return {
        "reward_ptr": rewards.step_reward,
        "outcome_ptr": rewards.rollout_outcome,
        "state_ptr": rewards.step_state,
        "value_ptr": rewards.step_value,
        "group_offsets_ptr": batch.group_offsets,
        "group_rollouts_ptr": batch.group_rollouts,
        "setting_ptr": setting_tensor(credit, rewards.step_reward.device),
        "num_groups": batch.num_groups,
        "max_rollout_steps": max_rollout_steps,
        **credit_constants(credit, max_rollout_steps=max_rollout_steps),
    }


def _loss_arguments(loss: LossConfig, batch: StepBatch, divisor: Count | None) -> dict[str, Any]:
    if divisor is None:
        own: int = getattr(batch, COUNT_OF_AGGREGATION[loss.aggregation])
        divisor = own
    return {
        "count_ptr": divisor if isinstance(divisor, Tensor) else None,
        "count": 1.0 if isinstance(divisor, Tensor) else float(divisor),
        "tokens_per_count": float(loss.constant_tokens or 1),
        "clip_low": float(loss.clip_low),
        "clip_high": float(loss.clip_high),
        "dual_clip": NEVER.value if loss.dual_clip is None else loss.dual_clip - 1.0,
        "kl_weight": float(loss.kl_weight),
        "num_steps": batch.num_steps,
        "PPO": loss.kind == "ppo",
        "WITH_DUAL": loss.dual_clip is not None,
        "RATIO": RATIOS[loss.ratio],
        "AGGREGATION": AGGREGATIONS[loss.aggregation],
        "KL": KLS[loss.kl],
    }

"""Launches of the policy loss: what the kernels are compiled for, and how many programs run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.kernels import gradient_dtype
from finestep_fast.kernels.credit import (
    NO_SCOPE,
    credit_constants,
    register_limit,
    setting_tensor,
    tile_constants,
)
from finestep_fast.kernels.loss import RATIOS, policy_loss_forward
from finestep_fast.kernels.reduction import SUMS, reduced
from finestep_fast.kernels.tokens import AGGREGATIONS, KLS, NEVER

BLOCK = 256
"""Tokens of one look: enough to keep memory busy, and few are wasted on a step of 50."""
WIDE_BLOCK = 512
"""Tokens of one look where only a mean is taken or zeros are written."""
NUM_WARPS = 4
FEW_REGISTERS, ALL_REGISTERS, FEW_STEPS = 128, 255, 32
"""Per thread and for NVIDIA only: left alone, ptxas aims at fewer and spills some of them. Float64,
rollouts of more than FEW_STEPS steps and credit of two channels apart need all."""
PROGRAMS_WANTED = 1024
"""About as many programs as one device runs at a time."""
PART_SLOTS = 1024
"""Slots of a rollout (its share of the token axis) that are worth a program of their own."""


class Tokens(NamedTuple):
    """Flat tensors [T]; what lies outside steps is not read."""

    logp: Tensor
    old: Tensor
    ref: Tensor | None
    weight: Tensor | None


class Spans(NamedTuple):
    """Whose tokens are whose, as in `StepBatch`."""

    step_start: Tensor
    step_end: Tensor
    step_offsets: Tensor
    max_rollout_steps: int
    ascend: bool
    """Whether step_start ascends, so that what follows a step, up to the next one, is nobody's."""


class Rewards(NamedTuple):
    """What advantages are worked out from."""

    step_reward: Tensor
    rollout_outcome: Tensor
    group_offsets: Tensor
    group_rollouts: Tensor
    credit: CreditConfig


def launched(
    tokens: Tokens,
    spans: Spans,
    advantages: Tensor | Rewards,
    *,
    loss: LossConfig,
    count: float | Tensor | None,
    num_policy_tokens: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `policy_loss_forward` and the reduction of its sums.

    Args:
        tokens: Log-probabilities and weights.
        spans: Of the steps.
        advantages: [S], or what they are worked out from.
        loss: The settings.
        count: What the aggregation divides by, [] where it lies on the device; None for the
            batch's own.
        num_policy_tokens: N.
        with_gradient: Whether to write the gradient.

    Returns:
        The loss [], the gradient [T] (empty where it was not asked for) and the metrics, as
        `finestep_fast.kernels.policy_loss` says.
    """
    logp, num_rollouts = tokens.logp, spans.step_offsets.numel() - 1
    dtype = torch.promote_types(logp.dtype, torch.float32)
    gradient = None
    if with_gradient:
        make = torch.empty_like if spans.ascend and spans.step_start.numel() else torch.zeros_like
        gradient = make(logp, dtype=gradient_dtype(logp.dtype))
    if spans.step_start.numel() == 0:
        value = logp.new_zeros((), dtype=dtype)
        metrics = logp.new_zeros(len(SUMS) - 1 + spans.max_rollout_steps, dtype=dtype)
    else:
        if isinstance(advantages, Rewards):
            step_advantage = torch.empty_like(advantages.step_reward)
        else:
            step_advantage = advantages
        parts = num_parts(logp.numel(), num_rollouts)
        program_sum = torch.empty(
            len(SUMS), num_rollouts * parts, dtype=torch.float64, device=logp.device
        )
        is_small = (
            dtype == torch.float32
            and spans.max_rollout_steps <= FEW_STEPS
            and not (isinstance(advantages, Rewards) and advantages.credit.channels == "decoupled")
        )
        with torch.cuda.device_of(logp):
            policy_loss_forward[(num_rollouts * parts,)](
                program_sum,
                gradient,
                *tokens,
                *spans[:3],
                step_advantage,
                **_reward_arguments(advantages, spans.max_rollout_steps),
                **_loss_arguments(loss, spans, count, num_policy_tokens),
                num_tokens=logp.numel(),
                num_parts=parts,
                COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
                WITH_ZEROS=spans.ascend,
                BLOCK=BLOCK,
                WIDE_BLOCK=WIDE_BLOCK,
                num_warps=NUM_WARPS,
                **register_limit(FEW_REGISTERS if is_small else ALL_REGISTERS),
            )
            value, metrics = reduced(
                program_sum,
                spans.step_offsets,
                step_advantage,
                max_rollout_steps=spans.max_rollout_steps,
                dtype=dtype,
            )
    return value, logp.new_empty(0, dtype=dtype) if gradient is None else gradient, metrics


def num_parts(num_tokens: int, num_rollouts: int) -> int:
    """Return among how many programs the blocks of each rollout are dealt out."""
    parts = -(-num_tokens // (num_rollouts * PART_SLOTS))
    return max(1, min(PROGRAMS_WANTED // num_rollouts, parts))


def _reward_arguments(advantages: Tensor | Rewards, max_rollout_steps: int) -> dict[str, Any]:
    if not isinstance(advantages, Rewards):
        pointers = ("reward", "outcome", "group_offsets", "group_rollouts", "setting")
        return {
            **{f"{name}_ptr": None for name in pointers},
            "num_groups": 0,
            "max_rollout_steps": max_rollout_steps,
            "SCOPE": NO_SCOPE.value,
            "WITH_TRAJECTORY": False,
            "DECOUPLED": False,
            **tile_constants(max_rollout_steps),
        }
    return {
        "reward_ptr": advantages.step_reward,
        "outcome_ptr": advantages.rollout_outcome,
        "group_offsets_ptr": advantages.group_offsets,
        "group_rollouts_ptr": advantages.group_rollouts,
        "setting_ptr": setting_tensor(advantages.credit, advantages.step_reward.device),
        "num_groups": advantages.group_offsets.numel() - 1,
        "max_rollout_steps": max_rollout_steps,
        **credit_constants(advantages.credit, max_rollout_steps=max_rollout_steps),
    }


def _loss_arguments(
    loss: LossConfig, spans: Spans, count: float | Tensor | None, num_policy_tokens: int
) -> dict[str, Any]:
    num_steps, num_rollouts = spans.step_start.numel(), spans.step_offsets.numel() - 1
    if count is None:
        own = {"token_mean": num_policy_tokens, "step_mean": num_steps}
        count = own.get(loss.aggregation, num_rollouts)
    on_device = isinstance(count, Tensor)
    return {
        "count_ptr": count if on_device else None,
        "count": 1.0 if on_device else float(count),
        "tokens_per_count": float(loss.constant_tokens or 1),
        "clip_low": float(loss.clip_low),
        "clip_high": float(loss.clip_high),
        "dual_clip": NEVER.value if loss.dual_clip is None else loss.dual_clip - 1.0,
        "kl_weight": float(loss.kl_weight),
        "num_steps": num_steps,
        "PPO": loss.kind == "ppo",
        "WITH_DUAL": loss.dual_clip is not None,
        "RATIO": RATIOS[loss.ratio],
        "AGGREGATION": AGGREGATIONS[loss.aggregation],
        "KL": KLS[loss.kl],
    }

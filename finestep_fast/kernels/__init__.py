"""The fused ops in Triton: credit and policy loss in one pass over a GPU's memory.

Holds kernels and their launchers only: no checks and no autograd, those are `finestep_fast.ops`'s.
Importing this does not import triton; the first call does. Tensors are flat, contiguous and on one
device; which steps, rollouts and groups they hold is said by a `StepBatch` on the same device.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from finestep_fast.arguments import Count, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig


def why_not(device: torch.device) -> str | None:
    """Return why the kernels cannot run on tensors of a device, or None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cuda":
        return None if torch.cuda.is_available() else "no CUDA device"
    if device.type != "cpu":
        return f"tensors are on {device.type}; Triton runs on cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "tensors are on cpu, and TRITON_INTERPRET is not 1"
    return None


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the gradient before scaling, of logps of a dtype."""
    from finestep_fast.kernels import launch

    return launch.gradient_dtype(dtype)


def step_advantage(rewards: Rewards, batch: StepBatch, *, credit: CreditConfig) -> Tensor:
    """Return what each step is worth, in one launch.

    Args:
        rewards: [S] and [R], both float32 or both float64.
        batch: Which steps belong to which rollout and group.
        credit: The settings.

    Returns:
        [S] advantages of the rewards' dtype.
    """
    from finestep_fast.kernels import advantage

    return advantage.step_advantage(rewards, batch, credit=credit)


def policy_loss(
    token_logp: Tensor,
    constants: TokenConstants,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig,
    divisor: Count | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, gradient and metrics of given advantages, in one launch and a tiny second one.

    Args:
        token_logp: [T] under the policy.
        constants: [T] each.
        batch: Which tokens belong to which step and rollout. Where its steps ascend, the kernel
            writes the zeros between them; else they are written before.
        step_advantage: [S] float32 or float64.
        loss: The settings.
        divisor: What the aggregation divides by, [] where it lies on the device; None for the
            batch's own.
        with_gradient: Whether the gradient is wanted.

    Returns:
        - The loss [], float64 for float64 logps, else float32.
        - d loss / d token_logp [T] of `gradient_dtype`, 0 outside steps; (0,) where not wanted.
        - The metrics: `SCALAR_METRICS`, then the mean advantage by position.
    """
    from finestep_fast.kernels import launch

    return launch.launched(
        token_logp,
        constants,
        batch,
        step_advantage,
        loss=loss,
        divisor=divisor,
        with_gradient=with_gradient,
    )


def step_policy_loss(
    token_logp: Tensor,
    constants: TokenConstants,
    batch: StepBatch,
    rewards: Rewards,
    *,
    credit: CreditConfig,
    loss: LossConfig,
    divisor: Count | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the policy loss straight from rewards, in one launch and a tiny second one.

    Args:
        token_logp: As in `policy_loss`, like all that is not named here.
        constants: [T] each.
        batch: Which tokens belong to which step, rollout and group.
        rewards: As in `step_advantage`.
        credit: The settings of the advantages.
        loss: The settings of the loss.
        divisor: Number, [] or None.
        with_gradient: Whether the gradient is wanted.

    Returns:
        Loss, gradient and metrics, as `policy_loss`.
    """
    from finestep_fast.kernels import launch

    return launch.launched(
        token_logp,
        constants,
        batch,
        launch.Earned(rewards, credit),
        loss=loss,
        divisor=divisor,
        with_gradient=with_gradient,
    )


def scale_gradient_(gradient: Tensor, scale: Tensor, step_start: Tensor, step_end: Tensor) -> None:
    """Multiply the policy tokens of a gradient [T] in place by a scale [] that lies on the device.

    Nothing is moved where the scale is 1, and the host never reads it.

    Args:
        gradient: [T] as the forward pass left it.
        scale: [] gradient of the loss.
        step_start: [S] int64.
        step_end: [S] int64.
    """
    from finestep_fast.kernels import scaling

    scaling.scale_gradient_(gradient, scale, step_start, step_end)

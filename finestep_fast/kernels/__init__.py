"""The fused ops in Triton: credit and policy loss in one pass over a GPU's memory.

Holds kernels and their launchers only: no checks and no autograd, those are `finestep_fast.ops`'s.
Importing this does not import triton; the first call does. Tensors are flat, contiguous and on one
device; which steps, rollouts and groups they hold is told by the arrays of `StepBatch`.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

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
    """Return the dtype of the unscaled gradient of logps of a dtype.

    Float32 for float16, in which A / N underflows before the scale of a loss could lift it.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def step_advantage(
    step_reward: Tensor,
    rollout_outcome: Tensor,
    step_offsets: Tensor,
    group_offsets: Tensor,
    group_rollouts: Tensor,
    *,
    max_rollout_steps: int,
    credit: CreditConfig,
) -> Tensor:
    """Return what each step is worth, in one launch.

    Args:
        step_reward: [S] float32 or float64.
        rollout_outcome: [R] of the same dtype.
        step_offsets: [R+1] int64, as in `StepBatch`.
        group_offsets: [G+1] int64.
        group_rollouts: [R] int64.
        max_rollout_steps: Steps of the longest rollout.
        credit: The settings.

    Returns:
        [S] advantages of the rewards' dtype.
    """
    from finestep_fast.kernels import advantage

    return advantage.step_advantage(
        step_reward,
        rollout_outcome,
        step_offsets,
        group_offsets,
        group_rollouts,
        max_rollout_steps=max_rollout_steps,
        credit=credit,
    )


def policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    token_logp_ref: Tensor | None,
    token_weight: Tensor | None,
    step_start: Tensor,
    step_end: Tensor,
    step_offsets: Tensor,
    step_advantage: Tensor,
    count_tensor: Tensor | None,
    *,
    count: float | None,
    num_policy_tokens: int,
    max_rollout_steps: int,
    loss: LossConfig,
    with_gradient: bool,
    steps_ascend: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, gradient and metrics of given advantages, in one launch and a tiny second one.

    Args:
        token_logp: [T] under the policy.
        token_logp_old: [T] under the policy that sampled.
        token_logp_ref: [T] under the reference policy; needed where `loss.kl` is set.
        token_weight: [T] factor of each token's surrogate, or None.
        step_start: [S] int64, as in `StepBatch`.
        step_end: [S] int64.
        step_offsets: [R+1] int64.
        step_advantage: [S] float32 or float64.
        count_tensor: [] what the aggregation divides by, on the device.
        count: The same, known here; where neither is given, the batch's own.
        num_policy_tokens: N.
        max_rollout_steps: Steps of the longest rollout.
        loss: The settings.
        with_gradient: Whether the gradient is wanted.
        steps_ascend: Whether `step_start` ascends over the whole batch. The kernel then writes the
            zeros between steps; else they are written before.

    Returns:
        - The loss [], float64 for float64 logps, else float32.
        - d loss / d token_logp [T] of `gradient_dtype`, 0 outside steps; (0,) where not wanted.
        - The metrics: `SCALAR_METRICS`, then the mean advantage by position.
    """
    from finestep_fast.kernels import launch

    return launch.launched(
        launch.Tokens(token_logp, token_logp_old, token_logp_ref, token_weight),
        launch.Spans(step_start, step_end, step_offsets, max_rollout_steps, steps_ascend),
        step_advantage,
        count=count if count_tensor is None else count_tensor,
        num_policy_tokens=num_policy_tokens,
        loss=loss,
        with_gradient=with_gradient,
    )


def step_policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    token_logp_ref: Tensor | None,
    token_weight: Tensor | None,
    step_start: Tensor,
    step_end: Tensor,
    step_offsets: Tensor,
    group_offsets: Tensor,
    group_rollouts: Tensor,
    step_reward: Tensor,
    rollout_outcome: Tensor,
    count_tensor: Tensor | None,
    *,
    count: float | None,
    num_policy_tokens: int,
    max_rollout_steps: int,
    credit: CreditConfig,
    loss: LossConfig,
    with_gradient: bool,
    steps_ascend: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the policy loss straight from rewards, in one launch and a tiny second one.

    Args:
        token_logp: As in `policy_loss`, like all that is not named here.
        token_logp_old: [T].
        token_logp_ref: [T] or None.
        token_weight: [T] or None.
        step_start: [S].
        step_end: [S].
        step_offsets: [R+1].
        group_offsets: As in `step_advantage`.
        group_rollouts: [R].
        step_reward: [S].
        rollout_outcome: [R].
        count_tensor: [] or None.
        count: Number or None.
        num_policy_tokens: N.
        max_rollout_steps: Steps of the longest rollout.
        credit: The settings of the advantages.
        loss: The settings of the loss.
        with_gradient: Whether the gradient is wanted.
        steps_ascend: Whether `step_start` ascends.

    Returns:
        Loss, gradient and metrics, as `policy_loss`.
    """
    from finestep_fast.kernels import launch

    return launch.launched(
        launch.Tokens(token_logp, token_logp_old, token_logp_ref, token_weight),
        launch.Spans(step_start, step_end, step_offsets, max_rollout_steps, steps_ascend),
        launch.Rewards(step_reward, rollout_outcome, group_offsets, group_rollouts, credit),
        count=count if count_tensor is None else count_tensor,
        num_policy_tokens=num_policy_tokens,
        loss=loss,
        with_gradient=with_gradient,
    )


def scale_gradient_(gradient: Tensor, scale: Tensor, step_start: Tensor, step_end: Tensor) -> None:
    """Multiply the policy tokens of a gradient [T] in place by a scale [] that lies on the device.

    Nothing is moved where the scale is 1, and the host never learns it.

    Args:
        gradient: [T] as the forward pass left it.
        scale: [] gradient of the loss.
        step_start: [S] int64.
        step_end: [S] int64.
    """
    from finestep_fast.kernels import scaling

    scaling.scale_gradient_(gradient, scale, step_start, step_end)

"""The C++ implementation: hands the memory of CPU tensors to `finestep_fast._core`, without copies.

No checks and no autograd: the entry points do that before, `operators` around it. The ops
take and return what those of `finestep_fast.kernels` do. Runs on as many threads as torch would;
the result does not depend on their number.
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from finestep_fast.arguments import SCALAR_METRICS, Count, LogitRows, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig

NOT_BUILT: str | None = None
"""Why the compiled module is missing; None where it is there."""
try:
    import finestep_fast._core as core
except ImportError as error:
    NOT_BUILT = f"finestep_fast._core was not built: {error}"


def why_not(device: torch.device) -> str | None:
    """Return why tensors of that device cannot be computed here; None where they can."""
    if NOT_BUILT is not None:
        return NOT_BUILT
    return None if device.type == "cpu" else f"it takes CPU tensors, and these are on {device}"


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor in memory that holds what torch reads: in a row, no sign left to apply."""
    if not torch.compiler.is_compiling():
        if tensor.is_neg():
            tensor = tensor.resolve_neg()
        elif tensor._is_zerotensor():
            tensor = tensor.clone()
    return tensor.contiguous()


def all_within(values: Tensor, low: float, high: float) -> bool:
    """Return whether all values lie between the bounds; a NaN never does."""
    within: bool = core.all_within(values, low, high)
    return within


def step_advantage(rewards: Rewards, batch: StepBatch, *, credit: CreditConfig) -> Tensor:
    """Return [S] advantages in the dtype of the rewards, float32 or float64."""
    advantage = torch.empty_like(rewards.step_reward)
    core.step_advantage(
        _groups(batch),
        rewards,
        _credit_settings(credit),
        advantage,
        torch.get_num_threads(),
    )
    return advantage


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
    """Return loss [], its gradient [T], 0 outside steps, and metrics."""
    loss_out, gradient, metrics = _outputs(token_logp, batch, with_gradient=with_gradient)
    core.policy_loss(
        (token_logp, *constants),
        _spans(batch),
        step_advantage,
        _loss_settings(loss),
        _as_float64(divisor),
        (loss_out, gradient if with_gradient else None, metrics),
        batch.steps_ascend,
        torch.get_num_threads(),
    )
    return loss_out, gradient, metrics


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
    """Return what `policy_loss` returns for the advantages of `step_advantage`, bit for bit."""
    loss_out, gradient, metrics = _outputs(token_logp, batch, with_gradient=with_gradient)
    core.step_policy_loss(
        (token_logp, *constants),
        _spans(batch),
        _groups(batch),
        rewards,
        _credit_settings(credit),
        _loss_settings(loss),
        _as_float64(divisor),
        (loss_out, gradient if with_gradient else None, metrics),
        batch.steps_ascend,
        torch.get_num_threads(),
    )
    return loss_out, gradient, metrics


def scale_gradient_(gradient: Tensor, scale: Tensor, step_start: Tensor, step_end: Tensor) -> None:
    """Multiply gradient [T] by scale [] where it is."""
    core.scale_gradient(gradient, scale, step_start, step_end, torch.get_num_threads())


def token_values(
    step_value: Tensor, step_start: Tensor, step_end: Tensor, num_tokens: int
) -> Tensor:
    """Return [T] in the dtype of step_value [S]: the value of a token's step, 0 outside steps."""
    values = step_value.new_empty(num_tokens)
    core.token_values(step_value, step_start, step_end, values, torch.get_num_threads())
    return values


def read_rows(rows: LogitRows, sums: Tensor) -> None:
    """Write logp, entropy, maximum and total of rows of logits to sums [4, C]."""
    core.read_logit_rows(rows, rows.logits.shape[-1], _row_sums(sums), torch.get_num_threads())


def write_row_gradients(
    rows: LogitRows,
    sums: Tensor,
    logp_slope: Tensor,
    entropy_slope: Tensor | None,
    gradient: Tensor,
) -> None:
    """Write d loss / d logit to the same rows of gradient [rows, V], which may be the logits."""
    core.write_logit_gradients(
        rows,
        rows.logits.shape[-1],
        _row_sums(sums),
        logp_slope,
        entropy_slope,
        gradient,
        torch.get_num_threads(),
    )


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a gradient before scaling, which is not rounded to 16 bits."""
    return torch.promote_types(dtype, torch.float32)


@lru_cache(maxsize=64)
def _credit_settings(credit: CreditConfig) -> core.CreditSettings:
    """Return the settings as the core has them."""
    named = _by_name(credit, scope=core.Scope, channels=core.Channels, std=core.Std)
    del named["allow_reward_imbalance"]  # it only says which settings are accepted
    return core.CreditSettings(**named)


@lru_cache(maxsize=64)
def _loss_settings(loss: LossConfig) -> core.LossSettings:
    """Return the settings as the core has them."""
    return core.LossSettings(
        **_by_name(
            loss,
            kind=core.LossKind,
            ratio=core.RatioLevel,
            aggregation=core.Aggregation,
            kl=core.KlEstimator,
        )
    )


def _by_name(config: CreditConfig | LossConfig, **choices: type[Enum]) -> dict[str, Any]:
    """Return the fields of a config; a choice as the member of that name."""
    named = {field.name: getattr(config, field.name) for field in fields(config)}
    for name, members in choices.items():
        if named[name] is not None:
            named[name] = members[named[name]]
    return named


def _row_sums(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logp, entropy, maximum, total = sums
    return logp, entropy, maximum, total


def _spans(batch: StepBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.step_start, batch.step_end, batch.step_offsets


def _groups(batch: StepBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.step_offsets, batch.group_offsets, batch.group_rollouts


def _as_float64(divisor: Count | None) -> Tensor | None:
    if isinstance(divisor, Tensor):
        return divisor.to(torch.float64)
    return None if divisor is None else torch.tensor(float(divisor), dtype=torch.float64)


def _outputs(
    token_logp: Tensor, batch: StepBatch, *, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and metrics, empty; only a gradient that the core cannot clear is zeros."""
    dtype = gradient_dtype(token_logp.dtype)
    if not with_gradient:
        gradient = torch.empty(0, dtype=dtype)
    elif batch.steps_ascend:
        gradient = torch.empty(token_logp.shape, dtype=dtype)
    else:
        gradient = torch.zeros(token_logp.shape, dtype=dtype)
    metrics = torch.empty(len(SCALAR_METRICS) + batch.max_rollout_steps, dtype=dtype)
    return torch.empty((), dtype=dtype), gradient, metrics

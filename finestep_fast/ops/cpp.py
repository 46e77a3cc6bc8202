"""The C++ implementation: hands the memory of CPU tensors to `finestep_fast._core`, without copies.

No checks and no autograd: the doors do that before, `fused` around it. Same functions, arguments
and returns as `finestep_fast.kernels`. Runs on as many threads as torch would; the result does not
depend on their number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.ops.settings import credit_numbers, loss_numbers
from finestep_fast.reference import SCALAR_METRICS

NOT_BUILT: str | None = None
"""Why the compiled module is missing; None where it is there."""
try:
    import finestep_fast._core as core
except ImportError as error:
    NOT_BUILT = f"finestep_fast._core was not built: {error}"

# The order is that of the compiled module.
_DTYPE = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.int64: 4,
}


def why_not(device: torch.device) -> str | None:
    """Return why tensors of that device cannot be computed here; None where they can."""
    if NOT_BUILT is not None:
        return NOT_BUILT
    return None if device.type == "cpu" else f"it takes CPU tensors, and these are on {device}"


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
    """Return [S] advantages in the dtype of the rewards, float32 or float64."""
    advantage = torch.empty_like(step_reward)
    core.step_advantage(
        (_memory(step_offsets), _memory(group_offsets), _memory(group_rollouts)),
        (_memory(step_reward), _memory(rollout_outcome)),
        credit_numbers(credit),
        _memory(advantage),
        torch.get_num_threads(),
    )
    return advantage


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
    steps_ascend: bool,
    loss: LossConfig,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [], its gradient [T], 0 outside steps, and metrics."""
    loss_out, gradient, metrics = _outputs(
        token_logp, max_rollout_steps, steps_ascend=steps_ascend, with_gradient=with_gradient
    )
    divisor = _count(count_tensor, count)
    core.policy_loss(
        (
            _memory(token_logp),
            _memory(token_logp_old),
            _maybe_memory(token_logp_ref),
            _maybe_memory(token_weight),
        ),
        (_memory(step_start), _memory(step_end), _memory(step_offsets)),
        _memory(step_advantage),
        loss_numbers(loss),
        _maybe_memory(divisor),
        (_memory(loss_out), _memory(gradient) if with_gradient else None, _memory(metrics)),
        steps_ascend,
        torch.get_num_threads(),
    )
    return loss_out, gradient, metrics


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
    steps_ascend: bool,
    credit: CreditConfig,
    loss: LossConfig,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `policy_loss` returns for the advantages of `step_advantage`, bit for bit."""
    loss_out, gradient, metrics = _outputs(
        token_logp, max_rollout_steps, steps_ascend=steps_ascend, with_gradient=with_gradient
    )
    divisor = _count(count_tensor, count)
    core.step_policy_loss(
        (
            _memory(token_logp),
            _memory(token_logp_old),
            _maybe_memory(token_logp_ref),
            _maybe_memory(token_weight),
        ),
        (_memory(step_start), _memory(step_end), _memory(step_offsets)),
        (_memory(step_offsets), _memory(group_offsets), _memory(group_rollouts)),
        (_memory(step_reward), _memory(rollout_outcome)),
        credit_numbers(credit),
        loss_numbers(loss),
        _maybe_memory(divisor),
        (_memory(loss_out), _memory(gradient) if with_gradient else None, _memory(metrics)),
        steps_ascend,
        torch.get_num_threads(),
    )
    return loss_out, gradient, metrics


def scale_gradient_(gradient: Tensor, scale: Tensor, step_start: Tensor, step_end: Tensor) -> None:
    """Multiply gradient [T] by scale [] where it is."""
    core.scale_gradient(
        _memory(gradient),
        _memory(scale),
        _memory(step_start),
        _memory(step_end),
        torch.get_num_threads(),
    )


def read_rows(
    logits: Tensor, row: Tensor, target: Tensor, temperature: Tensor, sums: Tensor
) -> None:
    """Write logp, entropy, maximum and total of rows [C] of logits [rows, V] to sums [4, C]."""
    core.read_logit_rows(
        _rows(logits, row, target, temperature),
        logits.shape[-1],
        _row_sums(sums),
        torch.get_num_threads(),
    )


def write_row_gradients(
    logits: Tensor,
    row: Tensor,
    target: Tensor,
    temperature: Tensor,
    sums: Tensor,
    logp_slope: Tensor,
    entropy_slope: Tensor | None,
    gradient: Tensor,
) -> None:
    """Write d loss / d logit to rows [C] of gradient [rows, V], which may be the logits."""
    core.write_logit_gradients(
        _rows(logits, row, target, temperature),
        logits.shape[-1],
        _row_sums(sums),
        _memory(logp_slope),
        _maybe_memory(entropy_slope),
        _memory(gradient),
        torch.get_num_threads(),
    )


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return in what dtype a gradient waits for its scale: it is not rounded to 16 bits before."""
    return torch.promote_types(dtype, torch.float32)


def _memory(tensor: Tensor) -> core.Memory:
    assert tensor.is_contiguous()
    return core.Memory(tensor.data_ptr(), tensor.numel(), _DTYPE[tensor.dtype])


def _maybe_memory(tensor: Tensor | None) -> core.Memory | None:
    return None if tensor is None else _memory(tensor)


def _rows(
    logits: Tensor, row: Tensor, target: Tensor, temperature: Tensor
) -> tuple[core.Memory, core.Memory, core.Memory, core.Memory]:
    return _memory(logits), _memory(row), _memory(target), _memory(temperature)


def _row_sums(sums: Tensor) -> tuple[core.Memory, core.Memory, core.Memory, core.Memory]:
    logp, entropy, maximum, total = sums
    return _memory(logp), _memory(entropy), _memory(maximum), _memory(total)


def _count(count_tensor: Tensor | None, count: float | None) -> Tensor | None:
    if count_tensor is not None:
        return count_tensor.to(torch.float64)
    return None if count is None else torch.tensor(count, dtype=torch.float64)


def _outputs(
    token_logp: Tensor, max_rollout_steps: int, *, steps_ascend: bool, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and metrics, empty; but for a gradient that the core cannot clear itself."""
    dtype = gradient_dtype(token_logp.dtype)
    if not with_gradient:
        gradient = torch.empty(0, dtype=dtype)
    elif steps_ascend:
        gradient = torch.empty(token_logp.shape, dtype=dtype)
    else:
        gradient = torch.zeros(token_logp.shape, dtype=dtype)
    metrics = torch.empty(len(SCALAR_METRICS) + max_rollout_steps, dtype=dtype)
    return torch.empty((), dtype=dtype), gradient, metrics

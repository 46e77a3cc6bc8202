"""No step on numbers that are not finite, and no such number in what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finestep_fast.errors import FinestepError
from finestep_fast.train.agree import all_of


class DivergedError(FinestepError):
    """Training has come to numbers that are not finite; what is kept was written before."""


def step_if_finite(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Sequence[Tensor],
    *,
    max_grad_norm: float,
) -> tuple[float, bool]:
    """Clip the gradients and take a step, unless a loss or their norm is not finite anywhere.

    Either way no gradient is left. All processes must call this; all step, or none does.

    Args:
        accelerator: of the run.
        model: as prepared by it.
        optimizer: as prepared by it.
        losses: this process's share of the loss; may be empty.
        max_grad_norm: gradients are scaled down to this norm.

    Returns:
        The norm before clipping, and whether the step was taken.
    """
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    grad_norm = 0.0 if norm is None else float(norm)
    finite = math.isfinite(grad_norm) and all(math.isfinite(float(loss)) for loss in losses)
    taken = all_of(accelerator, finite)
    if taken:
        optimizer.step()
    optimizer.zero_grad()
    return grad_norm, taken


def non_finite(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer] = ()) -> Iterator[str]:
    """Name what holds NaN or an infinity: parameters, moments; of buffers, only NaN is wrong."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            yield name
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.isnan().any():
            yield name
    for optimizer in optimizers:
        for place, moments in enumerate(optimizer.state.values()):
            for kind, value in moments.items():
                if isinstance(value, Tensor) and not value.isfinite().all():
                    yield f"{kind} of the optimiser's parameter {place}"


def check_finite(
    what: str,
    accelerator: Accelerator,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Refuse a state that must not be written; all processes must call this.

    Raises:
        DivergedError: A number of a model or of an optimiser is not finite, on any process.
    """
    first = next(non_finite(model, optimizers), None)
    if not all_of(accelerator, first is None):
        raise DivergedError(
            f"{what} is not written: {first or 'a tensor of another process'} is not finite"
        )

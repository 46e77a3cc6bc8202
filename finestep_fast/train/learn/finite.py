"""No step on numbers that are not finite, and no such number in what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finestep_fast.train.agree import all_of
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.stop import DivergedError


@dataclass(frozen=True)
class SkippedStep:
    """An optimiser step of an update that was not taken."""

    step: int
    """Which step of the update."""
    loss: float
    """This process's share."""
    grad_norm: float
    """Over all processes."""
    rollouts: list[int]
    """This process's rollouts in passes whose loss is not finite; of all passes if all losses are
    finite."""

    def record(self, rollouts: Sequence[Rollout]) -> dict[str, Any]:
        """Return one JSON record, given this process's rollouts of the update."""
        return {
            "step": self.step,
            "loss": str(self.loss),  # JSON has no NaN
            "grad_norm": str(self.grad_norm),
            "rollouts": [
                {"place": place, "question_id": rollouts[place].question.question_id}
                for place in self.rollouts
            ],
        }


def culprits(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of all processes' records of skipped steps whose loss is not finite.

    All records of a step stay where its loss is finite on every process.
    """
    bad = {item["step"] for item in records if not math.isfinite(float(item["loss"]))}
    return [
        item
        for item in records
        if item["step"] not in bad or not math.isfinite(float(item["loss"]))
    ]


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
        accelerator: Of the run.
        model: As prepared by it.
        optimizer: As prepared by it.
        losses: This process's share of the loss; may be empty.
        max_grad_norm: Gradients are scaled down to this norm.

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

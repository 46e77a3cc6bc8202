"""The ops from hidden states and logits as operators of torch, for who traces: compilers and modes.

An operator is what its op does, in one piece that nobody looks into: it returns a loss with the
gradients of its first arguments, and the backward pass scales them. Without a tracer nobody comes
here, and the gradients have no second place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast.batch import StepBatch, of_positions
from finestep_fast.config import LossConfig
from finestep_fast.ops.check import Count
from finestep_fast.ops.head.check import Temperature, rows_of
from finestep_fast.ops.head.implementations import POLICY_LOSS_IMPL
from finestep_fast.ops.head.policy_tokens import PolicyTokens
from finestep_fast.ops.implementations import IMPLEMENTATIONS
from finestep_fast.ops.operators import LIBRARY, named_metrics
from finestep_fast.ops.settings import from_numbers, loss_numbers
from finestep_fast.reference import SCALAR_METRICS, LossOutput

TEMPERATURE = "Tensor? token_temperature, float temperature"
GIVEN = (
    "Tensor target, Tensor token_logp_old, Tensor? token_logp_ref, Tensor? token_weight, "
    f"{TEMPERATURE}, Tensor step_start, Tensor step_end, Tensor step_offsets, "
    "Tensor group_offsets, Tensor group_rollouts, SymInt num_policy_tokens, "
    "SymInt max_rollout_steps, bool steps_ascend, Tensor step_advantage, Tensor? count_tensor, "
    "float? count, float entropy_weight, float[] loss, str rows"
)


@dataclass(frozen=True)
class Given:
    """What the losses from hidden states and from logits are given alike."""

    target: Tensor
    token_logp_old: Tensor
    token_logp_ref: Tensor | None
    token_weight: Tensor | None
    temperature: Temperature
    batch: StepBatch
    step_advantage: Tensor
    count: Count | None
    entropy_weight: float
    loss: LossConfig
    rows: str

    def flat(self) -> tuple[Any, ...]:
        """The arguments that `GIVEN` lists."""
        batch, count = self.batch, self.count
        return (
            self.target,
            self.token_logp_old,
            self.token_logp_ref,
            self.token_weight,
            *flat_temperature(self.temperature),
            batch.step_start,
            batch.step_end,
            batch.step_offsets,
            batch.group_offsets,
            batch.group_rollouts,
            batch.num_policy_tokens,
            batch.max_rollout_steps,
            batch.steps_ascend,
            self.step_advantage,
            count.reshape(()) if isinstance(count, Tensor) else None,
            None if isinstance(count, Tensor) or count is None else float(count),
            self.entropy_weight,
            loss_numbers(self.loss),
            self.rows,
        )

    @classmethod
    def of_flat(cls, *flat: Any) -> Given:
        """What `flat` came from."""
        target, token_logp_old, token_logp_ref, token_weight = flat[:4]
        step_advantage, count_tensor, count, entropy_weight, loss, rows = flat[14:]
        batch = of_positions(flat[6:11], target.numel())
        names = ("num_policy_tokens", "max_rollout_steps", "steps_ascend")
        batch.__dict__.update(zip(names, flat[11:14], strict=True))
        return cls(
            target,
            token_logp_old,
            token_logp_ref,
            token_weight,
            given_temperature(*flat[4:6]),
            batch,
            step_advantage,
            count if count_tensor is None else count_tensor,
            entropy_weight,
            from_numbers(LossConfig, loss),
            rows,
        )

    def policy(self) -> PolicyTokens:
        """The loss as seen from the policy tokens."""
        return PolicyTokens.of(
            self.batch,
            self.token_logp_old,
            self.token_logp_ref,
            self.token_weight,
            self.step_advantage,
            loss=self.loss,
            count=self.count,
            entropy_weight=self.entropy_weight,
            impl=IMPLEMENTATIONS[POLICY_LOSS_IMPL[self.rows]],
        )

    def target_and_temperature(self, vocabulary: int) -> tuple[Tensor, Tensor]:
        """See `rows_of`."""
        tokens = self.batch.policy_token
        return rows_of(self.target, self.temperature, tokens, vocabulary=vocabulary)


def flat_temperature(temperature: Temperature) -> tuple[Tensor | None, float]:
    """The arguments that `TEMPERATURE` lists."""
    if isinstance(temperature, Tensor):
        return temperature, 1.0
    return None, temperature


def given_temperature(token_temperature: Tensor | None, temperature: float) -> Temperature:
    """What `flat_temperature` came from."""
    return temperature if token_temperature is None else token_temperature


def register(name: str, schema: str, kernel: Any, fake: Any, autograd: Any = None) -> Any:
    """Return a new operator `finestep_fast::<name>`."""
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"finestep_fast::{name}", fake, lib=LIBRARY)
    operator = getattr(torch.ops.finestep_fast, name).default
    if autograd is not None:
        LIBRARY.impl(name, autograd, "Autograd")
    return operator


class LossOperator:
    """An operator that returns a loss, gradients of its first arguments, and metrics.

    Its last arguments are one bool for each of them: whether its gradient is asked for.
    """

    def __init__(self, name: str, schema: str, kernel: Any, fake: Any, *, num_leaves: int) -> None:
        self.num_leaves = num_leaves
        needs = ", ".join(f"bool needs_{place}" for place in range(num_leaves))
        results = ", ".join(["Tensor"] * (num_leaves + 2))
        self.operator = register(
            name, f"({schema}, {needs}) -> ({results})", kernel, fake, self._differentiated
        )

    def __call__(self, *args: Any, max_rollout_steps: Any, loss: LossConfig) -> LossOutput:
        """The loss and its metrics."""
        needs = (
            torch.is_grad_enabled() and leaf is not None and leaf.requires_grad
            for leaf in args[: self.num_leaves]
        )
        value, *_, metrics = self.operator(*args, *needs)
        return LossOutput(value, unpacked(metrics, max_rollout_steps, loss))

    def _differentiated(self, *args: Any) -> Any:
        if torch.is_grad_enabled() and any(args[-self.num_leaves :]):
            return _Scaled.apply(self, *args)  # type: ignore[no-untyped-call]
        return below_autograd(self.operator, *args)


class _Scaled(torch.autograd.Function):
    """A loss whose gradients come with it and wait for their scale."""

    @staticmethod
    def forward(ctx: Any, operator: LossOperator, *args: Any) -> Any:
        loss, *gradients, metrics = below_autograd(operator.operator, *args)
        ctx.dtypes = [
            leaf.dtype if is_needed else None
            for leaf, is_needed in zip(
                args[: operator.num_leaves], args[-operator.num_leaves :], strict=True
            )
        ]
        ctx.num_others = len(args) - operator.num_leaves
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*gradients, metrics)
        ctx.set_materialize_grads(False)
        return loss, *gradients, metrics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor | None, *_: Any) -> Any:
        scaled = [
            None
            if dtype is None or scale is None
            else torch.where(gradient == 0, gradient, gradient * scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, *scaled, *[None] * ctx.num_others


def below_autograd(operator: Any, *args: Any) -> Any:
    """Call an operator whose derivatives are somebody else's business."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


@contextmanager
def as_outside(device_type: str) -> Iterator[None]:
    """Let an operator's inside differentiate, as it does where nobody traces."""
    autocast = torch.autocast(device_type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        yield


def packed(metrics: dict[str, Tensor]) -> Tensor:
    """Return metrics as one tensor: scalars, advantages by position, entropy."""
    entropy = metrics["entropy"]
    absent = torch.zeros_like(entropy)
    scalars = torch.stack([metrics.get(name, absent) for name in SCALAR_METRICS])
    return torch.cat([scalars, metrics["advantage_by_position"], entropy[None]])


def unpacked(metrics: Tensor, max_rollout_steps: Any, loss: LossConfig) -> dict[str, Tensor]:
    """Return what was packed."""
    sizes = (len(SCALAR_METRICS) + max_rollout_steps, 1)
    others, entropy = torch.split_with_sizes(metrics, sizes)
    return {**named_metrics(others, loss), "entropy": entropy[0]}


def fake_metrics(of: Tensor, given: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """Return metrics of the right size for arguments that `GIVEN` lists."""
    return of.new_empty(len(SCALAR_METRICS) + given[12] + 1, dtype=dtype)

"""The ops from hidden states and logits as operators of torch, for compilers and modes.

An operator does what its op does, in one piece that is not traced any further. It returns a loss
with the gradients of its first arguments, and the backward pass scales them. Only traced calls use
these operators; other calls keep their gradients inside autograd, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast.arguments import SCALAR_METRICS, Count, Temperature, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.ops.head.implementations import POLICY_LOSS_IMPL
from finestep_fast.ops.head.policy_tokens import PolicyTokens
from finestep_fast.ops.implementations import IMPLEMENTATIONS
from finestep_fast.ops.operators import LIBRARY, named_metrics
from finestep_fast.ops.schema import Schema
from finestep_fast.reference import LossOutput


class PolicyArguments(NamedTuple):
    """What the losses from hidden states and from logits are given alike."""

    target: Tensor
    """[T] or [R, L] int64."""
    constants: TokenConstants
    """The shape of `target` each."""
    temperature: Temperature
    batch: StepBatch
    step_advantage: Tensor
    divisor: Count | None
    """What the aggregation divides by; None for the batch's own count."""
    entropy_weight: float
    loss: LossConfig
    rows: str
    """Name of the implementation."""

    def policy(self) -> PolicyTokens:
        """Return the loss as seen from the policy tokens."""
        return PolicyTokens.of(
            self.batch,
            self.constants,
            self.step_advantage,
            loss=self.loss,
            count=self.divisor,
            entropy_weight=self.entropy_weight,
            impl=IMPLEMENTATIONS[POLICY_LOSS_IMPL[self.rows]],
        )


def registered(
    name: str, schema: Schema[Any], num_results: int, function: Callable[[Any], Any], fake: Any
) -> Any:
    """Return a new operator `finestep_fast::<name>`.

    Args:
        name: Of the operator.
        schema: Of its arguments.
        num_results: How many tensors it returns.
        function: From the bundle to the results.
        fake: From the flat arguments, by their names, to empty results.
    """
    results = ", ".join(["Tensor"] * num_results)
    LIBRARY.define(f"{name}({schema.text}) -> ({results})", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, lambda *flat: function(schema.bundled(flat)), "CompositeExplicitAutograd")
    torch.library.register_fake(
        f"finestep_fast::{name}", lambda *flat: fake(**schema.by_name(flat)), lib=LIBRARY
    )
    return getattr(torch.ops.finestep_fast, name).default


class LossOperator:
    """An operator that returns a loss, gradients of some of its arguments, and metrics.

    The field `needs` of its arguments names these, and says of each whether its gradient is asked
    for; `policy` are `PolicyArguments`.

    Args:
        name: Of the operator.
        kind: Of the bundle of its arguments.
        needs: Kind of that field.
        function: From the bundle to the results.
        fake: From the flat arguments, by their names, to empty results.
    """

    def __init__(
        self, name: str, kind: Any, needs: Any, function: Callable[[Any], Any], fake: Any
    ) -> None:
        self.schema: Schema[Any] = Schema(kind)
        self.leaves: tuple[str, ...] = needs._fields
        self.operator = registered(name, self.schema, len(self.leaves) + 2, function, fake)
        LIBRARY.impl(self.operator, self._differentiated, "Autograd")

    def __call__(self, arguments: Any) -> LossOutput:
        """Return the loss and its metrics."""
        value, *_, metrics = self.operator(*self.schema.flat(arguments))
        policy: PolicyArguments = arguments.policy
        return LossOutput(value, unpacked(metrics, policy.batch.max_rollout_steps, policy.loss))

    def _differentiated(self, *flat: Any) -> Any:
        given = self.schema.by_name(flat)
        if torch.is_grad_enabled() and any(given[f"needs_{leaf}"] for leaf in self.leaves):
            return _Scaled.apply(self, *flat)  # type: ignore[no-untyped-call]
        return below_autograd(self.operator, *flat)


class _Scaled(torch.autograd.Function):
    """A loss that comes with its gradients, before scaling."""

    @staticmethod
    def forward(ctx: Any, operator: LossOperator, *flat: Any) -> Any:
        loss, *gradients, metrics = below_autograd(operator.operator, *flat)
        given = operator.schema.by_name(flat)
        ctx.dtype_of = {
            leaf: given[leaf].dtype if given[f"needs_{leaf}"] else None for leaf in operator.leaves
        }
        ctx.names = operator.schema.names
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*gradients, metrics)
        ctx.set_materialize_grads(False)
        return loss, *gradients, metrics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_scale: Tensor | None, *_: Any) -> Any:
        scaled = {}
        for gradient, (leaf, dtype) in zip(ctx.saved_tensors, ctx.dtype_of.items(), strict=True):
            if dtype is not None and loss_scale is not None:
                product = torch.where(gradient == 0, gradient, gradient * loss_scale)
                scaled[leaf] = product.to(dtype)
        return None, *(scaled.get(name) for name in ctx.names)


def is_needed(leaf: Tensor | None) -> bool:
    """Return whether the gradient of an argument is asked for."""
    return torch.is_grad_enabled() and leaf is not None and leaf.requires_grad


def below_autograd(operator: Any, *flat: Any) -> Any:
    """Call an operator; its derivatives are the caller's business."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*flat)


@contextmanager
def as_outside(device_type: str) -> Iterator[None]:
    """Let an operator's inside differentiate, as it does where it is not traced."""
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


def fake_metrics(like: Tensor, max_rollout_steps: Any, dtype: torch.dtype) -> Tensor:
    """Return metrics of the right size."""
    return like.new_empty(len(SCALAR_METRICS) + max_rollout_steps + 1, dtype=dtype)

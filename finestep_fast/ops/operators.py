"""The compiled implementations as operators of torch: traced by torch.compile, differentiated once.

A module with the functions of `finestep_fast.ops.cpp` becomes the operators
`finestep_fast::<name>_step_advantage`, `_policy_loss`, `_step_policy_loss` and one that scales the
gradient. The loss operators return a gradient that waits for its scale: the backward pass scales it
and knows no mathematics.

Time per call is the point of this file, for the loss of a small batch takes 0.1 ms. So operators
are registered through `torch.library.Library` (the autograd of `custom_op` costs another 0.1 ms),
and where nobody looks at operators (no compiler, no mode) the same function is called without the
dispatcher (0.04 ms).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.ops import cpp
from finestep_fast.ops.check import Count, is_traced, is_wrapped
from finestep_fast.ops.cpp import dense
from finestep_fast.ops.settings import as_numbers, from_numbers
from finestep_fast.reference import SCALAR_METRICS, LossOutput

LIBRARY = torch.library.Library("finestep_fast", "FRAGMENT")

_TOKENS = "Tensor token_logp, Tensor token_logp_old, Tensor? token_logp_ref, Tensor? token_weight"
_STEPS = "Tensor step_start, Tensor step_end, Tensor step_offsets"
_GROUPS = "Tensor group_offsets, Tensor group_rollouts"
_REWARDS = "Tensor step_reward, Tensor rollout_outcome"
_SIZES = (
    "Tensor? count_tensor, float? count, SymInt num_policy_tokens, SymInt max_rollout_steps, "
    "bool steps_ascend, bool with_gradient"
)
_LOSS_AND_GRADIENT = "(Tensor loss, Tensor gradient, Tensor metrics)"


class Fused:
    """One compiled implementation: its operators, and the three ops as the doors call them."""

    def __init__(self, name: str, module: Callable[[], ModuleType], device_types: tuple[str, ...]):
        self.name = name
        self.module = module
        self.device_types = device_types
        self.step_advantage_op = self._register(
            "step_advantage",
            f"({_REWARDS}, Tensor step_offsets, {_GROUPS}, SymInt max_rollout_steps, "
            "float[] credit) -> Tensor",
            self._step_advantage,
            lambda step_reward, *_: torch.empty_like(step_reward),
        )
        self.policy_loss_op = self._register(
            "policy_loss",
            f"({_TOKENS}, {_STEPS}, Tensor step_advantage, float[] loss, {_SIZES})"
            f" -> {_LOSS_AND_GRADIENT}",
            self._policy_loss,
            self._fake_loss,
        )
        self.step_policy_loss_op = self._register(
            "step_policy_loss",
            f"({_TOKENS}, {_STEPS}, {_GROUPS}, {_REWARDS}, float[] credit, float[] loss, {_SIZES})"
            f" -> {_LOSS_AND_GRADIENT}",
            self._step_policy_loss,
            self._fake_loss,
        )
        for op in (self.policy_loss_op, self.step_policy_loss_op):
            LIBRARY.impl(op, partial(self._differentiated, op), "Autograd")

    # What the doors call

    def step_advantage(
        self,
        batch: StepBatch,
        step_reward: Tensor,
        rollout_outcome: Tensor,
        *,
        credit: CreditConfig,
    ) -> Tensor:
        """Return [S] advantages without gradient."""
        by_operator = is_traced(step_reward, rollout_outcome)
        call = self.step_advantage_op if by_operator else self._step_advantage
        advantage: Tensor = call(
            *_rewards(step_reward, rollout_outcome),
            batch.step_offsets,
            batch.group_offsets,
            batch.group_rollouts,
            batch.max_rollout_steps,
            as_numbers(credit) if by_operator else credit,
        )
        return advantage

    def policy_loss(
        self,
        token_logp: Tensor,
        token_logp_old: Tensor,
        batch: StepBatch,
        step_advantage: Tensor,
        *,
        loss: LossConfig,
        count: Count | None,
        token_logp_ref: Tensor | None,
        token_weight: Tensor | None,
    ) -> LossOutput:
        """Return the loss; `count` is what the aggregation divides by."""
        value, metrics = self._evaluated(
            self.policy_loss_op,
            self._policy_loss,
            dense(token_logp),
            _dense(token_logp_old),
            _dense(token_logp_ref),
            _dense(token_weight),
            batch.step_start,
            batch.step_end,
            batch.step_offsets,
            _number(step_advantage.detach()),
            loss,
            *_sizes(batch, token_logp, count),
        )
        return LossOutput(value, named_metrics(metrics, loss))

    def step_policy_loss(
        self,
        token_logp: Tensor,
        token_logp_old: Tensor,
        batch: StepBatch,
        step_reward: Tensor,
        rollout_outcome: Tensor,
        *,
        credit: CreditConfig,
        loss: LossConfig,
        count: Count | None,
        token_logp_ref: Tensor | None,
        token_weight: Tensor | None,
    ) -> LossOutput:
        """Return the loss of the step advantages; `count` is what the aggregation divides by."""
        value, metrics = self._evaluated(
            self.step_policy_loss_op,
            self._step_policy_loss,
            dense(token_logp),
            _dense(token_logp_old),
            _dense(token_logp_ref),
            _dense(token_weight),
            batch.step_start,
            batch.step_end,
            batch.step_offsets,
            batch.group_offsets,
            batch.group_rollouts,
            *_rewards(step_reward, rollout_outcome),
            credit,
            loss,
            *_sizes(batch, token_logp, count),
        )
        return LossOutput(value, named_metrics(metrics, loss))

    def _evaluated(
        self, op: Any, kernel: Callable[..., Any], token_logp: Tensor, *args: Any
    ) -> tuple[Tensor, Tensor]:
        """Loss and metrics by the operator, or by its kernel where nobody looks."""
        if is_traced(token_logp, *(arg for arg in args if isinstance(arg, Tensor))):
            loss, _, metrics = op(token_logp, *map(as_numbers, args))
        elif torch.is_grad_enabled() and token_logp.requires_grad:
            loss, _, metrics = _Loss.apply(token_logp, self, kernel, True, args)  # type: ignore[no-untyped-call]
        else:
            loss, _, metrics = kernel(token_logp, *args)
        return loss, metrics

    # What the operators do

    def _step_advantage(self, *args: Any) -> Tensor:
        *tensors, max_rollout_steps, credit = args
        advantage: Tensor = self.module().step_advantage(
            *tensors,
            max_rollout_steps=max_rollout_steps,
            credit=from_numbers(CreditConfig, credit),
        )
        return advantage

    def _policy_loss(self, *args: Any) -> Any:
        *tensors, loss, count_tensor = args[4:10]
        return self.module().policy_loss(
            *args[:4],
            *tensors,
            count_tensor,
            loss=from_numbers(LossConfig, loss),
            **_named_sizes(args[10:]),
        )

    def _step_policy_loss(self, *args: Any) -> Any:
        *tensors, credit, loss, count_tensor = args[4:14]
        return self.module().step_policy_loss(
            *args[:4],
            *tensors,
            count_tensor,
            credit=from_numbers(CreditConfig, credit),
            loss=from_numbers(LossConfig, loss),
            **_named_sizes(args[14:]),
        )

    def _fake_loss(self, token_logp: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        max_rollout_steps, _, with_gradient = args[-3:]
        dtype = torch.promote_types(token_logp.dtype, torch.float32)
        gradient_dtype = self.module().gradient_dtype(token_logp.dtype)
        return (
            token_logp.new_empty((), dtype=dtype),
            token_logp.new_empty(token_logp.shape if with_gradient else 0, dtype=gradient_dtype),
            token_logp.new_empty(len(SCALAR_METRICS) + max_rollout_steps, dtype=dtype),
        )

    # How they are made known

    def _register(self, name: str, schema: str, kernel: Any, fake: Any) -> Any:
        full_name = f"{self.name}_{name}"
        LIBRARY.define(full_name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for device_type in self.device_types:
            LIBRARY.impl(full_name, kernel, device_type.upper())
        torch.library.register_fake(f"finestep_fast::{full_name}", fake, lib=LIBRARY)
        return getattr(torch.ops.finestep_fast, full_name).default

    def _differentiated(self, op: Any, token_logp: Tensor, *args: Any) -> Any:
        below = partial(_below_autograd, op)
        if torch.is_grad_enabled() and token_logp.requires_grad:
            return _Loss.apply(token_logp, self, below, False, args)  # type: ignore[no-untyped-call]
        return below(token_logp, *args)


class _Loss(torch.autograd.Function):
    """A loss operator whose gradient with respect to `token_logp` comes with it.

    The gradient is handed on; so there is one, and where a graph is retained the next backward pass
    makes another. It is scaled where it is if it is ours alone (`is_ours`): an operator's caller
    holds it as an output, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        token_logp: Tensor,
        fused: Fused,
        call: Callable[..., Any],
        is_ours: bool,
        args: tuple[Any, ...],
    ) -> Any:
        loss, gradient, metrics = call(token_logp, *args)
        ctx.module, ctx.call, ctx.is_ours, ctx.gradient = fused.module(), call, is_ours, gradient
        ctx.rest = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.save_for_backward(
            token_logp, *[arg if isinstance(arg, Tensor) else None for arg in args]
        )
        ctx.mark_non_differentiable(gradient, metrics)
        ctx.set_materialize_grads(False)
        return loss, gradient, metrics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        scale = grads[0]
        if scale is None:
            return None, None, None, None, None
        token_logp, *tensors = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            args = (
                rest if tensor is None else tensor
                for tensor, rest in zip(tensors, ctx.rest, strict=True)
            )
            _, gradient, _ = ctx.call(token_logp, *args)
        if ctx.is_ours and not (is_traced(scale) or is_wrapped(scale)):
            step_start, step_end = tensors[3:5]
            ctx.module.scale_gradient_(gradient, dense(scale), step_start, step_end)
        else:
            gradient = torch.where(gradient == 0, gradient, gradient * scale)
        return gradient.to(token_logp.dtype), None, None, None, None


def _below_autograd(op: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def _kernels() -> ModuleType:
    import finestep_fast.kernels as kernels

    return kernels


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else dense(tensor)


def _number(value: Tensor) -> Tensor:
    """As float64 where it is that, else as float32."""
    return dense(value.to(torch.promote_types(value.dtype, torch.float32)))


def _rewards(step_reward: Tensor, rollout_outcome: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(step_reward.dtype, rollout_outcome.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return dense(step_reward.detach().to(dtype)), dense(rollout_outcome.detach().to(dtype))


def _sizes(batch: StepBatch, token_logp: Tensor, count: Count | None) -> tuple[Any, ...]:
    """The arguments that `_SIZES` lists."""
    is_tensor = isinstance(count, Tensor)
    return (
        dense(count.detach().reshape(())) if isinstance(count, Tensor) else None,
        None if is_tensor or count is None else float(count),
        batch.num_policy_tokens,
        batch.max_rollout_steps,
        batch.steps_ascend,
        torch.is_grad_enabled() and token_logp.requires_grad,
    )


def _named_sizes(sizes: tuple[Any, ...]) -> dict[str, Any]:
    names = ("count", "num_policy_tokens", "max_rollout_steps", "steps_ascend", "with_gradient")
    return dict(zip(names, sizes, strict=True))


def named_metrics(metrics: Tensor, loss: LossConfig) -> dict[str, Tensor]:
    """Return scalars and advantages by position, one tensor, under their names."""
    num_scalars = len(SCALAR_METRICS)
    scalars, by_position = torch.split_with_sizes(
        metrics, (num_scalars, metrics.shape[0] - num_scalars)
    )
    named = dict(zip(SCALAR_METRICS, scalars.unbind(), strict=True))
    named["advantage_by_position"] = by_position
    if loss.kl is None:
        del named["reference_kl"]
    return named


CPP = Fused("cpp", lambda: cpp, ("cpu",))
TRITON = Fused("triton", _kernels, ("cpu", "cuda"))

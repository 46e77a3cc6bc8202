"""The compiled implementations as operators of torch: traced by torch.compile, differentiated once.

A module with the functions of `finestep_fast.ops.cpp` becomes the operators
`finestep_fast::<name>_step_advantage`, `_policy_loss` and `_step_policy_loss`. The loss operators
return a gradient before scaling: the backward pass scales it and knows no mathematics.

Time per call is the point of this file, for the loss of a small batch takes 0.1 ms. So operators
are registered through `torch.library.Library` (the autograd of `custom_op` costs another 0.1 ms),
and a call that is not traced (no compiler, no mode) passes its bundles to the same function without
the dispatcher (0.04 ms).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast.arguments import SCALAR_METRICS, Count, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.ops import cpp
from finestep_fast.ops.check import is_traced, is_wrapped
from finestep_fast.ops.cpp import dense
from finestep_fast.ops.schema import Schema, put_back, set_apart
from finestep_fast.reference import LossOutput

LIBRARY = torch.library.Library("finestep_fast", "FRAGMENT")


class AdvantageArguments(NamedTuple):
    """What `step_advantage` of a module takes."""

    rewards: Rewards
    batch: StepBatch
    credit: CreditConfig


class LossArguments(NamedTuple):
    """What `policy_loss` of a module takes."""

    token_logp: Tensor
    """[T]; alone differentiable."""
    constants: TokenConstants
    batch: StepBatch
    step_advantage: Tensor
    loss: LossConfig
    divisor: Count | None
    """What the aggregation divides by; None for the batch's own count."""
    with_gradient: bool


class RewardLossArguments(NamedTuple):
    """What `step_policy_loss` of a module takes."""

    token_logp: Tensor
    """[T]; alone differentiable."""
    constants: TokenConstants
    batch: StepBatch
    rewards: Rewards
    credit: CreditConfig
    loss: LossConfig
    divisor: Count | None
    """What the aggregation divides by; None for the batch's own count."""
    with_gradient: bool


class CompiledImplementation:
    """One compiled implementation: its operators, and the three ops as the entry points call them.

    Args:
        name: Of the implementation.
        module: Returns the module with its functions.
        device_types: Of the tensors that it takes.
    """

    def __init__(self, name: str, module: Callable[[], ModuleType], device_types: tuple[str, ...]):
        self.module = module
        results = "(Tensor loss, Tensor gradient, Tensor metrics)"
        self.step_advantage_op = _registered(
            f"{name}_step_advantage", ADVANTAGE, "Tensor", self._step_advantage, device_types
        )
        self.policy_loss_op = _registered(
            f"{name}_policy_loss", LOSS, results, self._policy_loss, device_types
        )
        self.step_policy_loss_op = _registered(
            f"{name}_step_policy_loss", REWARD_LOSS, results, self._step_policy_loss, device_types
        )
        _set_fake(
            self.step_advantage_op,
            lambda *flat: torch.empty_like(ADVANTAGE.by_name(flat)["rewards_step_reward"]),
        )
        for op, schema in ((self.policy_loss_op, LOSS), (self.step_policy_loss_op, REWARD_LOSS)):
            _set_fake(op, partial(self._fake_loss, schema))
            LIBRARY.impl(op, partial(_differentiated, op), "Autograd")

    def step_advantage(self, rewards: Rewards, batch: StepBatch, *, credit: CreditConfig) -> Tensor:
        """Return [S] advantages without gradient."""
        given = AdvantageArguments(_of_one_dtype(rewards), batch, credit)
        traced = is_traced(*rewards)
        advantage: Tensor = (
            self.step_advantage_op(*ADVANTAGE.flat(given))
            if traced
            else self._step_advantage(given)
        )
        return advantage

    def policy_loss(
        self,
        token_logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        step_advantage: Tensor,
        *,
        loss: LossConfig,
        count: Count | None,
    ) -> LossOutput:
        """Return the loss; `count` is what the aggregation divides by."""
        given = LossArguments(
            dense(token_logp),
            constants.each(dense),
            batch,
            _widened(step_advantage.detach()),
            loss,
            _one_number(count),
            torch.is_grad_enabled() and token_logp.requires_grad,
        )
        return self._evaluated(self._policy_loss, self.policy_loss_op, LOSS, given)

    def step_policy_loss(
        self,
        token_logp: Tensor,
        constants: TokenConstants,
        batch: StepBatch,
        rewards: Rewards,
        *,
        credit: CreditConfig,
        loss: LossConfig,
        count: Count | None,
    ) -> LossOutput:
        """Return the loss of the step advantages; `count` is what the aggregation divides by."""
        given = RewardLossArguments(
            dense(token_logp),
            constants.each(dense),
            batch,
            _of_one_dtype(rewards),
            credit,
            loss,
            _one_number(count),
            torch.is_grad_enabled() and token_logp.requires_grad,
        )
        return self._evaluated(self._step_policy_loss, self.step_policy_loss_op, REWARD_LOSS, given)

    def _evaluated(
        self,
        function: Callable[[Any], Any],
        op: Any,
        schema: Schema[Any],
        given: LossArguments | RewardLossArguments,
    ) -> LossOutput:
        """Loss and metrics by the operator where it is traced, else by the function."""
        if torch.compiler.is_compiling() or is_traced(given.batch.step_start, *set_apart(given)[1]):
            value, _, metrics = op(*schema.flat(given))
        elif given.with_gradient:
            value, _, metrics = _Loss.apply(given.token_logp, function, given, self.module())  # type: ignore[no-untyped-call]
        else:
            value, _, metrics = function(given)
        return LossOutput(value, named_metrics(metrics, given.loss))

    def _step_advantage(self, given: AdvantageArguments) -> Any:
        return self.module().step_advantage(**given._asdict())

    def _policy_loss(self, given: LossArguments) -> Any:
        return self.module().policy_loss(**given._asdict())

    def _step_policy_loss(self, given: RewardLossArguments) -> Any:
        return self.module().step_policy_loss(**given._asdict())

    def _fake_loss(self, schema: Schema[Any], *flat: Any) -> tuple[Tensor, Tensor, Tensor]:
        given = schema.by_name(flat)
        logp, num_positions = given["token_logp"], given["batch_max_rollout_steps"]
        dtype = torch.promote_types(logp.dtype, torch.float32)
        gradient_dtype = self.module().gradient_dtype(logp.dtype)
        return (
            logp.new_empty((), dtype=dtype),
            logp.new_empty(logp.shape if given["with_gradient"] else 0, dtype=gradient_dtype),
            logp.new_empty(len(SCALAR_METRICS) + num_positions, dtype=dtype),
        )


ADVANTAGE = Schema(AdvantageArguments)
LOSS = Schema(LossArguments)
REWARD_LOSS = Schema(RewardLossArguments)


def _registered(
    name: str,
    schema: Schema[Any],
    results: str,
    function: Callable[[Any], Any],
    device_types: tuple[str, ...],
) -> Any:
    LIBRARY.define(f"{name}({schema.text}) -> {results}", tags=(torch.Tag.pt2_compliant_tag,))
    for device_type in device_types:
        LIBRARY.impl(name, lambda *flat: function(schema.bundled(flat)), device_type.upper())
    return getattr(torch.ops.finestep_fast, name).default


def _set_fake(op: Any, fake: Callable[..., Any]) -> None:
    torch.library.register_fake(op.name(), fake, lib=LIBRARY)


def _differentiated(op: Any, token_logp: Tensor, *others: Any) -> Any:
    """What the operator does above autograd."""

    def below(flat: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*flat)

    flat = (token_logp, *others)
    if torch.is_grad_enabled() and token_logp.requires_grad:
        return _Loss.apply(token_logp, below, flat, None)  # type: ignore[no-untyped-call]
    return below(flat)


class _Loss(torch.autograd.Function):
    """A loss that comes with its gradient with respect to `token_logp`.

    The gradient is handed on; so there is one, and where a graph is retained the next backward pass
    makes another. It is scaled in place if it is ours alone: an operator's caller holds it as an
    output, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        token_logp: Tensor,
        function: Callable[[Any], Any],
        given: Any,
        module: ModuleType | None,
    ) -> Any:
        """Evaluate a function of bundles or, under a tracer, of flat arguments.

        Args:
            ctx: Of autograd.
            token_logp: The first of what is given.
            function: Returns loss, gradient before scaling and metrics.
            given: Its arguments.
            module: Scales the gradient in place; None where a caller may hold it.
        """
        loss, gradient, metrics = function(given)
        ctx.rest, tensors = set_apart(given)
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.gradient, ctx.module = function, gradient, module
        ctx.mark_non_differentiable(gradient, metrics)
        ctx.set_materialize_grads(False)
        return loss, gradient, metrics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Scale the gradient."""
        loss_scale = grads[0]
        if loss_scale is None:
            return None, None, None, None
        tensors = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient, _ = ctx.function(put_back(ctx.rest, tensors))
        if ctx.module is not None and not (is_traced(loss_scale) or is_wrapped(loss_scale)):
            batch: StepBatch = ctx.rest.batch
            ctx.module.scale_gradient_(
                gradient, dense(loss_scale), batch.step_start, batch.step_end
            )
        else:
            gradient = torch.where(gradient == 0, gradient, gradient * loss_scale)
        return gradient.to(tensors[0].dtype), None, None, None


def _kernels() -> ModuleType:
    import finestep_fast.kernels as kernels

    return kernels


def _widened(value: Tensor) -> Tensor:
    """Return float64 values as they are, others as float32."""
    return dense(value.to(torch.promote_types(value.dtype, torch.float32)))


def _of_one_dtype(rewards: Rewards) -> Rewards:
    step_reward, rollout_outcome, step_state, step_value = rewards
    dtype = torch.promote_types(step_reward.dtype, rollout_outcome.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return Rewards(
        dense(step_reward.detach().to(dtype)),
        dense(rollout_outcome.detach().to(dtype)),
        None if step_state is None else dense(step_state),
        None if step_value is None else dense(step_value.detach().to(dtype)),
    )


def _one_number(count: Count | None) -> Count | None:
    return dense(count.detach().reshape(())) if isinstance(count, Tensor) else count


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


CPP = CompiledImplementation("cpp", lambda: cpp, ("cpu",))
TRITON = CompiledImplementation("triton", _kernels, ("cpu", "cuda"))

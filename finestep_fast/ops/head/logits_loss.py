"""From logits to the policy loss: rows outside steps are neither read nor written."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast import reference
from finestep_fast.arguments import Count, LogitRows, Temperature, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.config.check import check_flag, check_number
from finestep_fast.errors import InputError
from finestep_fast.ops.check import (
    check_batch,
    check_constants,
    check_impl,
    check_loss,
    check_step_advantage,
    is_opaque,
    loss_count,
)
from finestep_fast.ops.cpp import dense
from finestep_fast.ops.head.check import check_logits, check_target, check_temperature, rows_of
from finestep_fast.ops.head.chunks import Chunk, read_rows, row_gradients
from finestep_fast.ops.head.implementations import ROWS, chosen_rows
from finestep_fast.ops.head.operators import (
    LossOperator,
    PolicyArguments,
    as_outside,
    fake_metrics,
    is_needed,
    packed,
)
from finestep_fast.ops.head.policy_tokens import PolicyTokens
from finestep_fast.ops.head.rows import RowImplementation
from finestep_fast.ops.implementations import loss_counts
from finestep_fast.ops.loss import PPO
from finestep_fast.reference import LossOutput


def logits_policy_loss(
    logits: Tensor,
    target: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig = PPO,
    temperature: Temperature = 1.0,
    entropy_weight: float = 0.0,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
    num_policy_tokens: Count | None = None,
    num_rollouts: Count | None = None,
    num_steps: Count | None = None,
    inplace: bool = False,
    impl: str = "auto",
) -> LossOutput:
    """Return the policy loss of logits, minus the weighted entropy of the tokens inside steps.

    `loss = policy_loss(logp) - entropy_weight sum_t w_t entropy_t` with w the aggregation's weight.
    Row t of `logits` is the one that *predicts* target t. The gradient is computed beside the loss,
    while rows are still in a cache; a ratio that tokens share costs one more pass over all rows.

    Before scaling, the gradient has the dtype of the logits: under a loss scale, small gradients
    are lost in float16 (not in bfloat16).

    Source: PPO with a step's advantage for each of its tokens, as the paper says; the entropy bonus
    after A3C (arXiv:1602.01783), its aggregation ours.

    Args:
        logits: [T, V] or [R, L, V]; differentiable, once. Rows outside steps are never read.
        target: [T] or [R, L] int64.
        token_logp_old: The shape of `target`, under the policy that sampled; a constant.
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages; constants.
        loss: The settings.
        temperature: Logits are divided by it: one number, or one for each token, of the shape of
            `target`; a constant.
        entropy_weight: Weight of the entropy bonus; at 0 entropy is only measured.
        token_logp_ref: The shape of `target`, under the reference policy, for `loss.kl`.
        token_weight: The shape of `target`: factor of each token's surrogate; a constant.
        num_policy_tokens: What `token_mean` divides by; None for the batch's own.
        num_rollouts: What `rollout_mean` and `constant` divide by; None for the batch's own.
        num_steps: What `step_mean` divides by; None for the batch's own.
        inplace: Whether the gradient takes the place of the logits, with 0 in rows outside steps.
            Their version counts up, so torch refuses a backward pass that saved them.
        impl: Name of the implementation; `auto` takes the fastest for the device: `cpp` on a CPU,
            `triton` on a GPU, else `torch`.

    Returns:
        `.loss`, [] and 0 for a batch without steps; `.metrics` as `policy_loss` gives them, and
        `entropy`, the mean over policy tokens.

    Raises:
        InputError: A shape, dtype, device, target or temperature does not fit, something the
            settings need is missing or would be ignored, or logits cannot be overwritten.
        BuildError: The implementation was not built.
    """
    check_batch(batch)
    check_loss(loss)
    check_impl(
        impl,
        {"logits": logits},
        target=target,
        token_logp_old=token_logp_old,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
        step_advantage=step_advantage,
        temperature=temperature,
        num_policy_tokens=num_policy_tokens,
        num_rollouts=num_rollouts,
        num_steps=num_steps,
    )
    check_logits(logits)
    check_target("logits", logits, target, batch)
    constants = TokenConstants(token_logp_old, token_logp_ref, token_weight)
    check_constants("target", target, constants, loss=loss)
    check_temperature(temperature, target)
    check_number("entropy_weight", entropy_weight, low=0)
    check_step_advantage(batch, step_advantage)
    count = loss_count(batch, num_policy_tokens, num_rollouts, num_steps, loss=loss)
    name = chosen_rows(impl, logits.device)
    _check_inplace(logits, name, inplace=inplace)
    if name is None:
        rows_of(target, temperature, batch.policy_token, vocabulary=logits.shape[-1])
        return reference.logits_policy_loss(
            logits,
            target,
            token_logp_old,
            batch,
            step_advantage,
            loss=loss,
            counts=loss_counts(batch, count, loss),
            temperature=temperature,
            entropy_weight=entropy_weight,
            token_logp_ref=token_logp_ref,
            token_weight=token_weight,
        )
    policy = PolicyArguments(
        target,
        constants,
        temperature,
        batch,
        step_advantage,
        count,
        entropy_weight,
        loss,
        rows=name,
    )
    given = LogitsLossArguments(logits, policy, LogitsNeeds(is_needed(logits)))
    if torch.compiler.is_compiling() and inplace:
        # What is overwritten cannot be part of a graph: it breaks here.
        disabled: Callable[..., LossOutput] = torch.compiler.disable(_evaluated)
        return disabled(given, inplace=True)
    return _OPERATOR(given) if is_opaque(logits) else _evaluated(given, inplace=inplace)


class LogitsNeeds(NamedTuple):
    """Which gradients are asked for."""

    logits: bool


class LogitsLossArguments(NamedTuple):
    """What the operator takes."""

    logits: Tensor
    policy: PolicyArguments
    needs: LogitsNeeds


def _evaluated(given: LogitsLossArguments, *, inplace: bool) -> LossOutput:
    problem, logits = _Problem.of(given, inplace=inplace), given.logits
    with torch.autocast(logits.device.type, enabled=False):
        if given.needs.logits:
            value = _LogitsLoss.apply(logits, problem)  # type: ignore[no-untyped-call]
        else:
            value, _ = problem.run(logits, with_gradient=False)
    return LossOutput(value, problem.metrics)


def _check_inplace(logits: Tensor, name: str | None, *, inplace: bool) -> None:
    check_flag("inplace", inplace)
    if not inplace:
        return
    if name is None:
        raise InputError("inplace is True for impl 'reference'; it must be False there")
    if not logits.is_contiguous() or logits.is_neg():
        raise InputError("inplace is True for logits that are not contiguous; it must be False")
    if logits.is_leaf and logits.requires_grad:
        raise InputError(
            "inplace is True for logits that are a leaf with a gradient of their own; it must be "
            "False, for overwriting them would lose them"
        )


@dataclass
class _Problem:
    """Which rows of logits are read, the loss of their logps, and the metrics of the last run."""

    batch: StepBatch
    target: Tensor
    """[N] int64."""
    temperature: Tensor
    """[N] float64."""
    rows: RowImplementation
    policy: PolicyTokens
    inplace: bool
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, given: LogitsLossArguments, *, inplace: bool) -> _Problem:
        """Gather what belongs to policy tokens."""
        policy, vocabulary = given.policy, given.logits.shape[-1]
        tokens = policy.batch.policy_token
        of_tokens = rows_of(policy.target, policy.temperature, tokens, vocabulary=vocabulary)
        return cls(policy.batch, *of_tokens, ROWS[policy.rows], policy.policy(), inplace)

    def run(self, logits: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return loss and gradient, and keep the metrics."""
        flat = dense(logits.detach()).view(-1, logits.shape[-1])
        gradient = self._gradient_memory(flat) if with_gradient else None
        sums = flat.new_empty((4, self.target.shape[0]), dtype=torch.float64)
        chunks = partial(self._chunks, flat, flat if gradient is None else gradient)
        if gradient is None:
            read_rows(chunks, self.rows, sums)
        else:
            for _ in row_gradients(chunks, self.rows, self.policy, sums):
                pass
        loss, metrics = self.policy.output(sums[0], sums[1])
        wide = torch.promote_types(logits.dtype, torch.float32)
        self.metrics = {name: metric.to(wide) for name, metric in metrics.items()}
        return loss.to(wide), None if gradient is None else gradient.view(logits.shape)

    def scale_(self, gradient: Tensor, loss_scale: Tensor) -> None:
        """Multiply the rows inside steps."""
        flat = gradient.view(-1, gradient.shape[-1])
        self.rows.scale_(flat, self.batch.step_start, self.batch.step_end, loss_scale)

    def _chunks(self, flat: Tensor, gradient: Tensor) -> Iterator[Chunk]:
        tokens = self.batch.policy_token
        each = max(1, tokens.shape[0])
        if self.rows.chunk_bytes is not None:
            each = max(1, self.rows.chunk_bytes // (flat.shape[1] * flat.element_size()))
        for first in range(0, tokens.shape[0], each):
            part = slice(first, min(first + each, tokens.shape[0]))
            rows = LogitRows(flat, tokens[part], self.target[part], self.temperature[part])
            yield Chunk(part, rows, None, gradient)

    def _gradient_memory(self, flat: Tensor) -> Tensor:
        """Memory for the gradient, 0 outside steps: the logits themselves, or new."""
        if not self.inplace and flat.device.type == "cpu" and flat.numel():
            # Pages that are never written to are 0 and take no memory. Small ones: a system may
            # search for huge pages, which numpy asks for, longer than all else takes.
            size, private = flat.numel() * flat.element_size(), mmap.MAP_PRIVATE
            zeros = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
            return torch.frombuffer(zeros, dtype=flat.dtype).view(flat.shape)
        gradient = flat if self.inplace else torch.empty_like(flat)
        self.rows.clear_others(gradient, self.batch.policy_token)
        return gradient


class _LogitsLoss(torch.autograd.Function):
    """A loss that comes with its gradient, once; a retained graph makes it again if it can."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, problem: _Problem) -> Tensor:
        loss, ctx.gradient = problem.run(logits, with_gradient=True)
        ctx.problem = problem
        if problem.inplace:
            torch.autograd.graph.increment_version(logits)
        else:
            ctx.save_for_backward(logits)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_scale: Tensor) -> Any:
        problem, gradient, ctx.gradient = ctx.problem, ctx.gradient, None
        if problem.inplace and gradient is None:
            raise RuntimeError(
                "logits_policy_loss(inplace=True): the logits were overwritten by the gradient, "
                "which was handed on; there is no second backward pass"
            )
        if not problem.inplace:
            (logits,) = ctx.saved_tensors
            if gradient is None:
                _, gradient = problem.run(logits, with_gradient=True)
        problem.scale_(gradient, loss_scale)
        return gradient, None


# Where the call is traced


def _in_one_piece(given: LogitsLossArguments) -> tuple[Tensor, ...]:
    logits, problem = given.logits, _Problem.of(given, inplace=False)
    with as_outside(logits.device.type):
        loss, gradient = problem.run(logits, with_gradient=given.needs.logits)
    result = logits.new_empty(0) if gradient is None else gradient
    return loss, result, packed(problem.metrics)


def _fake(
    *, logits: Tensor, needs_logits: bool, policy_batch_max_rollout_steps: int, **_: Any
) -> tuple[Tensor, ...]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    gradient = logits.new_empty(logits.shape if needs_logits else 0)
    metrics = fake_metrics(logits, policy_batch_max_rollout_steps, wide)
    return logits.new_empty((), dtype=wide), gradient, metrics


_OPERATOR = LossOperator(
    "logits_policy_loss", LogitsLossArguments, LogitsNeeds, _in_one_piece, _fake
)

"""From hidden states to the policy loss: never all logits, nothing outside steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast import reference
from finestep_fast.arguments import Count, Temperature, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.config.check import check_number, check_whole
from finestep_fast.ops.check import (
    check_batch,
    check_constants,
    check_impl,
    check_loss,
    check_step_advantage,
    is_opaque,
    loss_count,
)
from finestep_fast.ops.head.check import check_head, check_target, check_temperature, rows_of
from finestep_fast.ops.head.implementations import chosen_rows
from finestep_fast.ops.head.linear_head import (
    CHUNK_BYTES,
    Head,
    HeadGradients,
    Needs,
    product_dtype,
)
from finestep_fast.ops.head.operators import (
    LossOperator,
    PolicyArguments,
    as_outside,
    fake_metrics,
    is_needed,
    packed,
)
from finestep_fast.ops.head.policy_tokens import PolicyTokens
from finestep_fast.ops.implementations import loss_counts
from finestep_fast.ops.loss import PPO
from finestep_fast.reference import LossOutput


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig = PPO,
    temperature: Temperature = 1.0,
    entropy_weight: float = 0.0,
    bias: Tensor | None = None,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
    num_policy_tokens: Count | None = None,
    num_rollouts: Count | None = None,
    num_steps: Count | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    impl: str = "auto",
) -> LossOutput:
    """Return the policy loss of a linear head's log-probabilities, minus their weighted entropy.

    `loss = policy_loss(logp) - entropy_weight sum_t w_t entropy_t` with `logp_t`, `entropy_t` as
    in `token_logp` and w the aggregation's weight. Row t of `hidden` is the one that *predicts*
    target t: a causal model's states are shifted by one token before.

    Only the N tokens inside steps enter a matrix product. Their gradients are computed beside the
    loss, a chunk of logits at a time: 6 N V D operations for hidden and weight, 4 where the weight
    is frozen; a ratio that tokens share costs 2 more, for all logps come first. The products are in
    the dtype of the weights, or of autocast; what follows is in float32, or float64 for float64.

    With gradients in pieces (FSDP2) the head must be whole while this runs: call it in the forward
    of the module that `fully_shard` wraps, where `self.lm_head.weight` is gathered.

    Source: PPO with a step's advantage for each of its tokens, as the paper says; the entropy bonus
    after A3C (arXiv:1602.01783), its aggregation ours.

    Args:
        hidden: [T, D] or [R, L, D]; differentiable, once.
        weight: [V, D], a whole tensor, parameter or computed; differentiable, once.
        target: [T] or [R, L] int64.
        token_logp_old: The shape of `target`, under the policy that sampled; a constant.
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages; constants.
        loss: The settings.
        temperature: Logits are divided by it: one number, or one for each token, of the shape of
            `target`; a constant.
        entropy_weight: Weight of the entropy bonus; at 0 entropy is only measured.
        bias: [V]; differentiable, once.
        token_logp_ref: The shape of `target`, under the reference policy, for `loss.kl`.
        token_weight: The shape of `target`: factor of each token's surrogate; a constant.
        num_policy_tokens: What `token_mean` divides by; None for the batch's own.
        num_rollouts: What `rollout_mean` and `constant` divide by; None for the batch's own.
        num_steps: What `step_mean` divides by; None for the batch's own.
        chunk_bytes: Memory for the logits of a chunk; at least one row is taken.
        impl: Name of the implementation; `auto` takes the fastest for the device: `cpp` on a CPU,
            `triton` on a GPU, else `torch`.

    Returns:
        `.loss`, [] and 0 for a batch without steps; `.metrics` as `policy_loss` gives them, and
        `entropy`, the mean over policy tokens.

    Raises:
        InputError: A shape, dtype, device, target or temperature does not fit, an advantage on the
            CPU is not finite, something the settings need is missing or would be ignored, or a
            tensor is in pieces.
        BuildError: The implementation was not built.
    """
    check_batch(batch)
    check_loss(loss)
    check_impl(
        impl,
        {"hidden": hidden, "weight": weight, "bias": bias},
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
    check_head(hidden, weight, bias)
    check_target("hidden", hidden, target, batch)
    constants = TokenConstants(token_logp_old, token_logp_ref, token_weight)
    check_constants("target", target, constants, loss=loss)
    check_temperature(temperature, target)
    check_number("entropy_weight", entropy_weight, low=0)
    check_whole("chunk_bytes", chunk_bytes, low=1)
    check_step_advantage(batch, step_advantage)
    count = loss_count(batch, num_policy_tokens, num_rollouts, num_steps, loss=loss)
    name = chosen_rows(impl, hidden.device)
    if name is None:
        rows_of(target, temperature, batch.policy_token, vocabulary=weight.shape[0])
        return reference.linear_policy_loss(
            hidden,
            weight,
            target,
            token_logp_old,
            batch,
            step_advantage,
            loss=loss,
            counts=loss_counts(batch, count, loss),
            temperature=temperature,
            entropy_weight=entropy_weight,
            bias=bias,
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
    needs = Needs(is_needed(hidden), is_needed(weight), is_needed(bias))
    dtype = product_dtype(hidden, weight)
    given = LinearLossArguments(hidden, weight, bias, dtype, chunk_bytes, policy, needs)
    return _OPERATOR(given) if is_opaque(hidden, weight, bias) else _evaluated(given)


class LinearLossArguments(NamedTuple):
    """What the operator takes."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    """Of matrix products."""
    chunk_bytes: int
    policy: PolicyArguments
    needs: Needs


@dataclass
class _Problem:
    """A head, the loss of its logps, and the metrics of the last run."""

    head: Head
    policy: PolicyTokens
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, given: LinearLossArguments) -> _Problem:
        """Gather what belongs to policy tokens."""
        policy = given.policy
        head = Head.of(
            given.weight,
            policy.target,
            policy.batch.policy_token,
            policy.temperature,
            rows=policy.rows,
            dtype=given.dtype,
            chunk_bytes=given.chunk_bytes,
        )
        return cls(head, policy.policy())

    def run(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Needs
    ) -> tuple[Tensor, HeadGradients]:
        """Return loss and gradients, and keep the metrics."""
        wide = torch.promote_types(self.head.dtype, torch.float32)
        gradients = HeadGradients(None, None, None)
        if any(needs):
            sums, gradients = self.head.differentiate(
                hidden, weight, bias, needs=needs, source=self.policy
            )
        else:
            sums = self.head.read(hidden, weight, bias)
        loss, metrics = self.policy.output(sums[0], sums[1])
        self.metrics = {name: metric.to(wide) for name, metric in metrics.items()}
        return loss.to(wide), gradients


def _evaluated(given: LinearLossArguments) -> LossOutput:
    hidden, weight, bias, problem = given.hidden, given.weight, given.bias, _Problem.of(given)
    with torch.autocast(hidden.device.type, enabled=False):
        if torch.is_grad_enabled():
            loss = _LinearLoss.apply(hidden, weight, bias, problem)  # type: ignore[no-untyped-call]
        else:
            loss, _ = problem.run(hidden, weight, bias, given.needs)
    return LossOutput(loss, problem.metrics)


class _LinearLoss(torch.autograd.Function):
    """A loss that comes with its gradients.

    They are handed on; so they exist once, and where a graph is retained the next backward pass
    makes them again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: _Problem
    ) -> Tensor:
        loss, ctx.gradients = problem.run(hidden, weight, bias, Needs(*ctx.needs_input_grad[:3]))
        ctx.problem = problem
        ctx.save_for_backward(hidden, weight, bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_scale: Tensor) -> Any:
        hidden, weight, bias = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        with torch.autocast(hidden.device.type, enabled=False):
            if gradients is None:
                needs = Needs(*ctx.needs_input_grad[:3])
                _, gradients = ctx.problem.run(hidden, weight, bias, needs)
            head: Head = ctx.problem.head
            return *head.handed_over(gradients, hidden, weight, bias, loss_scale=loss_scale), None


# Where the call is traced


def _in_one_piece(given: LinearLossArguments) -> tuple[Tensor, ...]:
    hidden, weight, bias = given.hidden, given.weight, given.bias
    problem = _Problem.of(given)
    with as_outside(hidden.device.type):
        loss, gradients = problem.run(hidden.detach(), weight.detach(), bias, given.needs)
        if gradients.hidden is not None:
            scattered = problem.head.scattered(gradients.hidden, hidden)
            gradients = gradients._replace(hidden=scattered)
    results = [
        hidden.new_empty(0) if gradient is None else gradient.to(_dtype_before_scaling(leaf))
        for gradient, leaf in zip(gradients, (hidden, weight, bias), strict=True)
    ]
    return loss, *results, packed(problem.metrics)


def _fake(
    *,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    policy_batch_max_rollout_steps: int,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
    **_: Any,
) -> tuple[Tensor, ...]:
    wide = torch.promote_types(dtype, torch.float32)
    leaves = ((hidden, needs_hidden), (weight, needs_weight), (bias, needs_bias))
    gradients = [
        hidden.new_empty(leaf.shape, dtype=_dtype_before_scaling(leaf))
        if leaf is not None and needs_it
        else hidden.new_empty(0)
        for leaf, needs_it in leaves
    ]
    metrics = fake_metrics(hidden, policy_batch_max_rollout_steps, wide)
    return hidden.new_empty((), dtype=wide), *gradients, metrics


def _dtype_before_scaling(leaf: Tensor | None) -> torch.dtype:
    """The dtype of a gradient before scaling: float16 would lose small ones."""
    assert leaf is not None
    return torch.float32 if leaf.dtype == torch.float16 else leaf.dtype


_OPERATOR = LossOperator("linear_policy_loss", LinearLossArguments, Needs, _in_one_piece, _fake)

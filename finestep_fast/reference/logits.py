"""From hidden states or logits to the policy loss, in plain PyTorch that holds every logit.

Only what is asked for is defined here: a token's log-probability and entropy under a linear head,
and how both enter the loss. Row t of `hidden` (or `logits`) is the one that *predicts* `target[t]`,
so a caller shifts by one token before. Nothing here checks its input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.reference.loss import AGGREGATIONS, LossCounts, LossOutput, policy_loss

Temperature = float | Tensor


class TokenLogp(NamedTuple):
    """What a policy thinks of the tokens that were written, and how undecided it was."""

    logp: Tensor
    """[T] or [R, L]: log-probability of each target; float64 for float64 input, else float32."""
    entropy: Tensor
    """The same shape: entropy of the distribution that the target was drawn from, in nats."""


def token_logp(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: Temperature = 1.0,
    bias: Tensor | None = None,
    batch: StepBatch | None = None,
) -> TokenLogp:
    """Return log-probability and entropy of each token under a linear head.

    `z_t = (weight hidden_t + bias) / temperature_t`, `logp_t = z_t[target_t] - log sum_j exp
    z_t[j]`, `entropy_t = -sum_j p_t[j] log p_t[j]` with `p_t = softmax(z_t)`.

    Source: the definitions.

    Args:
        hidden: [T, D] or [R, L, D]; differentiable.
        weight: [V, D]; differentiable.
        target: [T] or [R, L] int64.
        temperature: One number, or one for each token, of the shape of `target`; a constant.
        bias: [V]; differentiable.
        batch: Which tokens belong to which step; None for all tokens.

    Returns:
        Log-probabilities and entropies in the shape of `target`, 0 outside the steps of `batch`.
    """
    tokens = _tokens(target, batch)
    logits = F.linear(hidden.reshape(-1, hidden.shape[-1])[tokens], weight, bias)
    rows = _rows(logits, target, temperature, tokens)
    return TokenLogp(*(_placed(value, tokens, target) for value in rows))


def logits_policy_loss(
    logits: Tensor,
    target: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig,
    counts: LossCounts,
    temperature: Temperature = 1.0,
    entropy_weight: float = 0.0,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
) -> LossOutput:
    """Return the policy loss of logits, minus the weighted entropy of the tokens inside steps.

    `loss = policy_loss(logp) - entropy_weight sum_t w_t entropy_t`, where w is the aggregation's
    weight, the same as in `policy_loss`; the token weight is no factor of it.

    Source: the entropy bonus of A3C (arXiv:1602.01783); its aggregation is ours.

    Args:
        logits: [T, V] or [R, L, V]; the only differentiable input.
        target: [T] or [R, L] int64.
        token_logp_old: The shape of `target`, under the policy that sampled.
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages.
        loss: The settings.
        counts: What the means divide by.
        temperature: One number, or one for each token, of the shape of `target`; a constant.
        entropy_weight: Weight of the bonus.
        token_logp_ref: The shape of `target`, under the reference policy.
        token_weight: The shape of `target`, factor of each token's surrogate.

    Returns:
        The loss, and the metrics of `policy_loss` with the mean `entropy` of the policy tokens.
    """
    tokens = batch.policy_token
    rows = _rows(logits.reshape(-1, logits.shape[-1])[tokens], target, temperature, tokens)
    total, metrics = policy_loss(
        _placed(rows.logp, tokens, target),
        token_logp_old,
        batch,
        step_advantage,
        loss=loss,
        counts=counts,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
    )
    if entropy_weight != 0:
        weight = AGGREGATIONS[loss.aggregation](batch, counts, loss).to(rows.entropy.dtype)
        total = total - entropy_weight * (weight * rows.entropy).sum()
    metrics["entropy"] = rows.entropy.detach().sum() / max(batch.num_policy_tokens, 1)
    return LossOutput(total, metrics)


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig,
    counts: LossCounts,
    temperature: Temperature = 1.0,
    entropy_weight: float = 0.0,
    bias: Tensor | None = None,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
) -> LossOutput:
    """Return `logits_policy_loss` of the logits of a linear head, `weight hidden_t + bias`.

    Source: the definitions.

    Args:
        hidden: [T, D] or [R, L, D]; differentiable.
        weight: [V, D]; differentiable.
        target: [T] or [R, L] int64.
        token_logp_old: The shape of `target`, under the policy that sampled.
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages.
        loss: The settings.
        counts: What the means divide by.
        temperature: One number, or one for each token, of the shape of `target`; a constant.
        entropy_weight: Weight of the entropy bonus.
        bias: [V]; differentiable.
        token_logp_ref: The shape of `target`, under the reference policy.
        token_weight: The shape of `target`, factor of each token's surrogate.

    Returns:
        The loss and its metrics.
    """
    tokens = batch.policy_token
    logits = F.linear(hidden.reshape(-1, hidden.shape[-1])[tokens], weight, bias)
    every = logits.new_zeros(target.numel(), logits.shape[-1]).index_put((tokens,), logits)
    return logits_policy_loss(
        every,
        target,
        token_logp_old,
        batch,
        step_advantage,
        loss=loss,
        counts=counts,
        temperature=temperature,
        entropy_weight=entropy_weight,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
    )


def _rows(logits: Tensor, target: Tensor, temperature: Temperature, tokens: Tensor) -> TokenLogp:
    """Log-probability and entropy [N] of the rows [N, V] of some tokens."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if isinstance(temperature, Tensor):
        each = temperature.detach().reshape(-1)[tokens]
        scaled = scaled / each.to(scaled.dtype).unsqueeze(-1)
    else:
        scaled = scaled / temperature
    logp = scaled.log_softmax(-1)
    probability = logp.exp()
    # A token that cannot be drawn adds nothing: 0 log 0 = 0, and so for the gradient.
    entropy = -(probability * logp.masked_fill(probability == 0, 0)).sum(-1)
    return TokenLogp(logp.gather(-1, target.reshape(-1)[tokens].unsqueeze(-1)).squeeze(-1), entropy)


def _tokens(target: Tensor, batch: StepBatch | None) -> Tensor:
    """[N]: flat positions of the tokens that are read."""
    if batch is not None:
        return batch.policy_token
    return torch.arange(target.numel(), device=target.device)


def _placed(value: Tensor, tokens: Tensor, target: Tensor) -> Tensor:
    """The values [N] of some tokens on the axis of all, 0 elsewhere."""
    every = value.new_zeros(target.numel()).index_put((tokens,), value)
    return every.reshape(target.shape)

"""The policy loss in plain PyTorch: from one advantage per step to one differentiable number.

Only tokens inside steps are gathered; the others are never read, so a NaN there changes nothing,
neither the loss nor a gradient. A NaN inside makes the loss NaN, and the gradients of its token and
of those that share its ratio. Every faster version of this file computes the same thing; nothing
here checks its input. N is the number of policy tokens, t one of them, s(t) its step, r(t) its
rollout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from finestep_fast.arguments import LOG_RATIO_LIMIT
from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.reference.metrics import loss_metrics


class LossCounts(NamedTuple):
    """What means divide by: the sizes of the whole batch of which a call may see only a part."""

    num_policy_tokens: float | Tensor
    num_rollouts: float | Tensor
    num_steps: float | Tensor


class LossOutput(NamedTuple):
    """A loss and what was seen on the way."""

    loss: Tensor
    """[] differentiable in `token_logp`; float64 for float64 input, else float32."""
    metrics: dict[str, Tensor]
    """Name -> [] or small tensor on the device, without gradient; see `loss_metrics`."""


class Surrogate(NamedTuple):
    """What the policy maximises, token by token, and where a clip decided."""

    objective: Tensor
    """[N] what is maximised."""
    clipped: dict[str, Tensor]
    """[N] bool each: where the bound `low`, `high` or `dual` decided."""


def token_advantage(batch: StepBatch, step_advantage: Tensor) -> Tensor:
    """Return the advantage of the step that owns each token.

    Source: the paper says so (step-level advantages, what is not the model's own is masked).

    Args:
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages.

    Returns:
        [T] advantages, 0 outside steps.
    """
    by_token = step_advantage.new_zeros(batch.num_tokens)
    return by_token.index_put((batch.policy_token,), step_advantage[batch.step_of_policy_token])


def policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig,
    counts: LossCounts,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
) -> LossOutput:
    """Return the clipped policy loss of the tokens inside steps.

    `loss = -sum_t w_t v_t surrogate_t + kl_weight sum_t w_t kl_t` with w the aggregation's weight
    and v the token weight.

    Source: PPO (arXiv:1707.06347) with a step's advantage for each of its tokens, as the paper
    says.

    Args:
        token_logp: [T] or [R, L] log-probabilities under the policy; the only differentiable input.
        token_logp_old: [T] or [R, L] under the policy that sampled.
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages.
        loss: The settings.
        counts: What the means divide by.
        token_logp_ref: [T] or [R, L] under the reference policy, for a `kl` other than None.
        token_weight: [T] or [R, L] factor of each token's surrogate, applied after the clip.

    Returns:
        The loss, 0 for a batch without steps, and its metrics.
    """
    dtype = torch.promote_types(token_logp.dtype, torch.float32)

    def gathered(token_value: Tensor) -> Tensor:
        return token_value.reshape(-1)[batch.policy_token].to(dtype)

    logp = gathered(token_logp)
    logp_old = gathered(token_logp_old).detach()
    advantage = step_advantage.detach().to(dtype)[batch.step_of_policy_token]

    log_ratio = cut(logp - logp_old)
    ratio = RATIOS[loss.ratio](log_ratio, batch).exp()
    surrogate = KINDS[loss.kind](ratio, logp, advantage, loss)
    objective = surrogate.objective
    if token_weight is not None:
        objective = objective * gathered(token_weight).detach()
    weight = AGGREGATIONS[loss.aggregation](batch, counts, loss).to(dtype)
    total = -(weight * objective).sum()

    metrics = loss_metrics(
        batch, step_advantage.to(dtype), log_ratio, ratio, clipped=surrogate.clipped
    )
    if loss.kl is not None and token_logp_ref is not None:
        log_ratio_ref = gathered(token_logp_ref).detach() - logp
        kl = KLS[loss.kl](cut(log_ratio_ref))
        total = total + loss.kl_weight * (weight * kl).sum()
        metrics["reference_kl"] = kl.detach().sum() / max(batch.num_policy_tokens, 1)
    return LossOutput(total, metrics)


def cut(log_ratio: Tensor) -> Tensor:
    """Return log ratios cut to plus and minus `LOG_RATIO_LIMIT`, without gradient beyond.

    NaN in, NaN out: a NaN stays one, and so does its gradient, whatever is made of it. `clamp`
    would give it the gradient 0, unnoticed.

    Source: ours.

    Args:
        log_ratio: [N] differences of log-probabilities.

    Returns:
        [N], all finite or NaN.
    """
    raised = torch.where(log_ratio < -LOG_RATIO_LIMIT, -LOG_RATIO_LIMIT, log_ratio)
    within = torch.where(log_ratio > LOG_RATIO_LIMIT, LOG_RATIO_LIMIT, raised)
    nothing = within.detach() - within.detach()  # 0, or NaN
    return within * (1 + nothing)


# The ratio: which tokens share one


def token_log_ratio(log_ratio: Tensor, batch: StepBatch) -> Tensor:
    """Return each token's own log ratio.

    Source: PPO.

    Args:
        log_ratio: [N] `logp_t - logp_old_t`.
        batch: Which tokens belong to which step, rollout and group.

    Returns:
        [N] log ratios.
    """
    return log_ratio


def step_log_ratio(log_ratio: Tensor, batch: StepBatch) -> Tensor:
    """Return the log of the geometric mean of the ratios of a step, with each token's own gradient.

    `log rho_t = stop_gradient(m_s(t) - logp_t) + logp_t` with m_s the mean of `logp - logp_old`
    over the tokens of s. Without token weights the tokens of a step weigh the same, and the mean's
    own gradient would be no other.

    Source: ours, after GSPO-token (arXiv:2507.18071), one step long.

    Args:
        log_ratio: [N] `logp_t - logp_old_t`.
        batch: Which tokens belong to which step, rollout and group.

    Returns:
        [N] log ratios, the same for all tokens of a step.
    """
    mean = _mean_by(log_ratio, batch.step_of_policy_token, batch.num_steps)
    return _with_gradient_of(log_ratio, mean)


def rollout_log_ratio(log_ratio: Tensor, batch: StepBatch) -> Tensor:
    """Return the log of the geometric mean of the ratios of a rollout, with each token's gradient.

    `log rho_t = stop_gradient(m_r(t) - logp_t) + logp_t` with m_r the mean of `logp - logp_old`
    over the policy tokens of r. Each token is clipped, and moved, by the advantage of its own step.

    Source: GSPO-token (arXiv:2507.18071, section 4.3), which is for advantages that differ within
    a rollout.

    Args:
        log_ratio: [N] `logp_t - logp_old_t`.
        batch: Which tokens belong to which step, rollout and group.

    Returns:
        [N] log ratios, the same for all policy tokens of a rollout.
    """
    return _with_gradient_of(log_ratio, averaged_rollout_log_ratio(log_ratio, batch))


def averaged_rollout_log_ratio(log_ratio: Tensor, batch: StepBatch) -> Tensor:
    """Return the log of the geometric mean of the ratios of a rollout, with the mean's gradient.

    A token then moves by the mean of what all tokens of its rollout gain, whichever advantage that
    is: step advantages that cancel leave no gradient. Where a rollout has one advantage, no token
    weights and one aggregation weight (any but step_mean's), it is the gradient of
    `rollout_log_ratio`. In cispo, where the ratio has no gradient, the two are always alike.

    Source: GSPO (arXiv:2507.18071), where rollouts have one advantage each. TRL's `sequence` level
    is this form for advantages (B, T), too.

    Args:
        log_ratio: [N] `logp_t - logp_old_t`.
        batch: Which tokens belong to which step, rollout and group.

    Returns:
        [N] log ratios, the same for all policy tokens of a rollout.
    """
    return _mean_by(log_ratio, _rollout_of_policy_token(batch), batch.num_rollouts)


RATIOS = {
    "token": token_log_ratio,
    "step": step_log_ratio,
    "rollout": rollout_log_ratio,
    "rollout_averaged": averaged_rollout_log_ratio,
}


# The surrogate: what is maximised


def ppo_surrogate(ratio: Tensor, logp: Tensor, advantage: Tensor, loss: LossConfig) -> Surrogate:
    """Return the pessimistic clipped surrogate.

    `min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)`; with dual_clip c, for A < 0, at least
    `c A`.

    Source: PPO (arXiv:1707.06347), clip-higher (arXiv:2503.14476), dual clip (arXiv:1912.09729).

    Args:
        ratio: [N] rho.
        logp: [N] log-probabilities.
        advantage: [N] A.
        loss: The settings.

    Returns:
        The surrogate [N]; clipped where the gradient of a token is cut off.
    """
    low, high = 1 - loss.clip_low, 1 + loss.clip_high
    objective = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    clipped_dual = torch.zeros_like(advantage, dtype=torch.bool)
    if loss.dual_clip is not None:
        worst = loss.dual_clip * advantage
        objective = torch.where(advantage < 0, torch.maximum(objective, worst), objective)
        clipped_dual = (advantage < 0) & (ratio > loss.dual_clip)
    clipped_low = (advantage < 0) & (ratio < low)
    clipped_high = (advantage > 0) & (ratio > high)
    return Surrogate(objective, {"low": clipped_low, "high": clipped_high, "dual": clipped_dual})


def cispo_surrogate(ratio: Tensor, logp: Tensor, advantage: Tensor, loss: LossConfig) -> Surrogate:
    """Return the log-probability weighted by a clipped ratio that carries no gradient.

    `stop_gradient(clip(rho, 1 - clip_low, 1 + clip_high)) A logp`: no token loses its gradient.

    Source: CISPO (arXiv:2506.13585).

    Args:
        ratio: [N] rho.
        logp: [N] log-probabilities.
        advantage: [N] A.
        loss: The settings.

    Returns:
        The surrogate [N]; clipped where the ratio was.
    """
    low, high = 1 - loss.clip_low, 1 + loss.clip_high
    objective = ratio.detach().clamp(low, high) * advantage * logp
    never = torch.zeros_like(advantage, dtype=torch.bool)
    return Surrogate(objective, {"low": ratio < low, "high": ratio > high, "dual": never})


KINDS = {"ppo": ppo_surrogate, "cispo": cispo_surrogate}


# The distance to a reference policy, with d = logp_ref - logp


def kl_k1(log_ratio_ref: Tensor) -> Tensor:
    """Return `-d`: unbiased, may be negative; its gradient is 0 in expectation on fresh samples.

    Source: J. Schulman, "Approximating KL divergence" (2020).

    Args:
        log_ratio_ref: [N] d.

    Returns:
        [N] estimates.
    """
    return -log_ratio_ref


def kl_k2(log_ratio_ref: Tensor) -> Tensor:
    """Return `d^2 / 2`: biased, low variance; its gradient is that of the divergence.

    Source: J. Schulman, "Approximating KL divergence" (2020).

    Args:
        log_ratio_ref: [N] d.

    Returns:
        [N] estimates.
    """
    return log_ratio_ref**2 / 2


def kl_k3(log_ratio_ref: Tensor) -> Tensor:
    """Return `exp(d) - d - 1`: unbiased, never negative, low variance.

    Source: J. Schulman, "Approximating KL divergence" (2020).

    Args:
        log_ratio_ref: [N] d.

    Returns:
        [N] estimates.
    """
    return log_ratio_ref.expm1() - log_ratio_ref


KLS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


# The aggregation: what is averaged


def token_mean(batch: StepBatch, counts: LossCounts, loss: LossConfig) -> Tensor:
    """Return `1 / N`: every policy token weighs the same.

    Source: DAPO (arXiv:2503.14476).

    Args:
        batch: Which tokens belong to which step, rollout and group.
        counts: N.
        loss: The settings.

    Returns:
        [N] weights.
    """
    return _ones(batch) / counts.num_policy_tokens


def rollout_mean(batch: StepBatch, counts: LossCounts, loss: LossConfig) -> Tensor:
    """Return `1 / (R n_r)`: the mean over rollouts of the mean over their policy tokens.

    Source: GRPO (arXiv:2402.03300).

    Args:
        batch: Which tokens belong to which step, rollout and group.
        counts: R.
        loss: The settings.

    Returns:
        [N] weights. A rollout without steps counts in R and adds nothing.
    """
    size = _size_by(_rollout_of_policy_token(batch), batch.num_rollouts)
    return 1 / (size * counts.num_rollouts)


def step_mean(batch: StepBatch, counts: LossCounts, loss: LossConfig) -> Tensor:
    """Return `1 / (S n_s)`: the mean over steps of the mean over their tokens.

    Source: ours.

    Args:
        batch: Which tokens belong to which step, rollout and group.
        counts: S.
        loss: The settings.

    Returns:
        [N] weights.
    """
    return 1 / (_size_by(batch.step_of_policy_token, batch.num_steps) * counts.num_steps)


def constant(batch: StepBatch, counts: LossCounts, loss: LossConfig) -> Tensor:
    """Return `1 / (R constant_tokens)`: sums over tokens, long or short, by one divisor.

    Source: Dr. GRPO (arXiv:2503.20783).

    Args:
        batch: Which tokens belong to which step, rollout and group.
        counts: R.
        loss: The settings.

    Returns:
        [N] weights.
    """
    return _ones(batch) / (counts.num_rollouts * (loss.constant_tokens or 1))


AGGREGATIONS = {
    "token_mean": token_mean,
    "rollout_mean": rollout_mean,
    "step_mean": step_mean,
    "constant": constant,
}


def _rollout_of_policy_token(batch: StepBatch) -> Tensor:
    return batch.rollout_of_step[batch.step_of_policy_token]


def _ones(batch: StepBatch) -> Tensor:
    return torch.ones(batch.num_policy_tokens, dtype=torch.float64, device=batch.device)


def _size_by(owner: Tensor, num_owners: int) -> Tensor:
    """[N] float64: how many policy tokens the owner of each policy token has."""
    one = torch.ones(owner.shape, dtype=torch.float64, device=owner.device)
    return one.new_zeros(num_owners).index_add(0, owner, one)[owner]


def _with_gradient_of(own: Tensor, value: Tensor) -> Tensor:
    """[N]: `value`, with the gradient of `own`."""
    return value.detach() + (own - own.detach())


def _mean_by(value: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """[N]: the mean over the policy tokens of the same owner."""
    total = value.new_zeros(num_owners).index_add(0, owner, value)[owner]
    return total / _size_by(owner, num_owners).to(value.dtype)

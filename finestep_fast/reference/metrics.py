"""What the policy loss saw on its way, as tensors on its device: no gradient, no host sync."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch


def loss_metrics(
    batch: StepBatch,
    step_advantage: Tensor,
    log_ratio: Tensor,
    ratio: Tensor,
    *,
    clipped: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the metrics of one pass over a batch; all are 0 for a batch without steps.

    Source: the usual ones, by position of the step where that is ours.

    Args:
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages.
        log_ratio: [N] `logp - logp_old` of each policy token.
        ratio: [N] the ratio the surrogate used, shared or not.
        clipped: Bound -> [N] bool, where it decided.

    Returns:
        Name -> tensor; [] unless said otherwise. Over micro-batches `policy_tokens` add up,
        `ratio_max` is a maximum, the others are means weighted by `policy_tokens`.

        - `policy_tokens`: N.
        - `clip_fraction_low`, `_high`, `_dual`: share of policy tokens where that bound decided.
        - `approx_kl`: mean of `exp(x) - x - 1` with x the log ratio of a token.
        - `ratio_mean`, `ratio_max`.
        - `effective_sample_size`: `(sum rho)^2 / (N sum rho^2)`, a share of the policy tokens.
        - `advantage_by_position`: [steps of the longest rollout] mean over steps.
        - `reference_kl`: mean estimate of the distance to the reference; only where `kl` is set.
    """
    log_ratio, ratio = log_ratio.detach(), ratio.detach()
    num_policy_tokens = batch.num_policy_tokens
    share = 1 / max(num_policy_tokens, 1)
    metrics = {"policy_tokens": torch.full_like(ratio.sum(), num_policy_tokens)}
    for bound, where in clipped.items():
        metrics[f"clip_fraction_{bound}"] = where.to(ratio.dtype).sum() * share
    metrics["approx_kl"] = (log_ratio.expm1() - log_ratio).sum() * share
    metrics["ratio_mean"] = ratio.sum() * share
    metrics["ratio_max"] = torch.cat([ratio, ratio.new_zeros(1)]).amax()
    spread = (ratio**2).sum().clamp(min=torch.finfo(ratio.dtype).tiny)
    metrics["effective_sample_size"] = ratio.sum() ** 2 / spread * share
    metrics["advantage_by_position"] = advantage_by_position(batch, step_advantage.detach())
    return metrics


def advantage_by_position(batch: StepBatch, step_advantage: Tensor) -> Tensor:
    """Return the mean advantage of the first steps, the second steps, ...

    Source: ours.

    Args:
        batch: Which steps belong to which rollout.
        step_advantage: [S] advantages.

    Returns:
        [steps of the longest rollout] means.
    """
    none = step_advantage.new_zeros(batch.max_rollout_steps)
    total = none.index_add(0, batch.position_of_step, step_advantage)
    count = none.index_add(0, batch.position_of_step, torch.ones_like(step_advantage))
    return total / count

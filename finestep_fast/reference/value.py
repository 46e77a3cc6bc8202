"""Scope `value` of credit: what a step adds to the estimated chance of being right in the end."""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig
from finestep_fast.reference.comparison import set_std
from finestep_fast.reference.returns import process_return


def value_credit(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    step_value: Tensor,
    rounding: Tensor,
    credit: CreditConfig,
) -> Tensor:
    """Return differences of a given value along each rollout, and the cost of each step's flaws.

    With V_s the value of the state in which step s is taken, and `V_n = O` after the last step:
    `delta_s = gamma_o V_(s+1) - V_s` (the last: `O - V`), and
    `A_s = w_o sum over k >= s of (gamma_o lambda)^(k-s) delta_k / (max(std_O, floor) + epsilon)
    + w_p sum over k >= s of gamma_p^(k-s) p_k`, where std_O is that of the outcomes of the group.
    Nothing is centred or smoothed, and channels do not matter: process rewards stay outside the
    division. At lambda = 1 and gamma_o = 1 the sum of the differences is `O - V_s`.

    Source: generalised advantage estimation (arXiv:1506.02438); the division by the spread of the
    group's outcomes and the process rewards beside it are ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] process rewards minus the baseline.
        outcome: [R] outcomes.
        step_value: [S] estimates of the outcome.
        rounding: [R] How far apart roundings may take equal outcomes.
        credit: The settings; lambda is `gae_lambda`.

    Returns:
        [S] advantages.
    """
    after = torch.cat((step_value[1:], step_value[:1])) * credit.outcome_discount
    last = batch.step_offsets[1:][batch.rollout_of_step] - 1
    is_last = torch.arange(batch.num_steps, device=batch.device) == last
    delta = torch.where(is_last, outcome[batch.rollout_of_step], after) - step_value
    gained = process_return(batch, delta, discount=credit.outcome_discount * credit.gae_lambda)
    if credit.std != "none":
        std = _std_of_outcomes(batch, outcome, rounding, credit=credit).clamp(min=credit.std_floor)
        scale = torch.where(std == 0, 0.0, 1 / (std + credit.epsilon))
        gained = gained * scale[batch.group_of_rollout[batch.rollout_of_step]]
    paid = process_return(batch, process, discount=credit.process_discount)
    return credit.outcome_weight * gained + credit.process_weight * paid


def _std_of_outcomes(
    batch: StepBatch, outcome: Tensor, rounding: Tensor, *, credit: CreditConfig
) -> Tensor:
    """Return the spread over the rollouts with steps of each group, [G]; 0 if within rounding."""
    has_steps = batch.step_offsets.diff() > 0
    group = batch.group_of_rollout.masked_fill(~has_steps, batch.num_groups)
    num_sets = batch.num_groups + 1  # the last holds rollouts without steps
    none = outcome.new_zeros(num_sets)
    low = none.scatter_reduce(0, group, outcome, "amin", include_self=False)
    high = none.scatter_reduce(0, group, outcome, "amax", include_self=False)
    within = none.scatter_reduce(0, group, rounding, "amax")
    std = set_std(outcome, group, num_sets=num_sets, credit=credit)
    return torch.where(high - low <= within, 0.0, std)[:-1]

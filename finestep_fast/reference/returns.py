"""From rewards to returns: each step's own, discounted and then smoothed. Points 1 and 2 of credit.

The letters are those of `finestep_fast.reference.credit`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig

# 1. Temporal


def process_return(batch: StepBatch, process: Tensor, *, discount: float) -> Tensor:
    """Return the discounted process rewards from each step on.

    `Q_s = sum over k >= s of gamma_p^(k-s) p_k`.

    Source: the paper names discounting; the form is the usual return to go.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] process rewards minus the baseline.
        discount: gamma_p.

    Returns:
        [S] returns.
    """
    table = by_position(batch, process)
    for position in reversed(range(batch.max_rollout_steps - 1)):
        table[:, position] += discount * table[:, position + 1]
    return table[batch.rollout_of_step, batch.position_of_step]


def outcome_return(batch: StepBatch, outcome: Tensor, *, discount: float) -> Tensor:
    """Return the outcome as seen from each step: `Q_s = gamma_o^(n-1-s) O`.

    Source: the paper names discounting; a discount of its own for the outcome is ours.

    Args:
        batch: Which steps belong to which rollout.
        outcome: [R] outcomes, paid at the last step.
        discount: gamma_o.

    Returns:
        [S] returns.
    """
    last = batch.step_offsets[1:][batch.rollout_of_step] - 1
    steps_left = last - torch.arange(batch.num_steps, device=batch.device)
    return outcome[batch.rollout_of_step] * discount ** steps_left.to(outcome.dtype)


# 2. Logical


def smoothed(batch: StepBatch, value: Tensor, *, smoothing: float) -> Tensor:
    """Return a causal moving average along each rollout.

    `Q~_0 = Q_0`, `Q~_s = alpha Q_s + (1 - alpha) Q~_{s-1}`; alpha = 1 returns Q itself. Only past
    terms are mixed in, so the expected gradient is unchanged.

    Source: the paper names smoothing; the form is ours.

    Args:
        batch: Which steps belong to which rollout.
        value: [S] returns.
        smoothing: alpha.

    Returns:
        [S] smoothed returns.
    """
    if smoothing == 1:
        return value
    table = by_position(batch, value)
    for position in range(1, batch.max_rollout_steps):
        table[:, position] *= smoothing
        table[:, position] += (1 - smoothing) * table[:, position - 1]
    return table[batch.rollout_of_step, batch.position_of_step]


def return_to_go(
    batch: StepBatch, process: Tensor, outcome: Tensor, *, credit: CreditConfig
) -> Tensor:
    """Return both returns added up and smoothed: points 1 and 2.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] weighted process rewards.
        outcome: [R] weighted outcomes.
        credit: The settings.

    Returns:
        [S] returns.
    """
    earned = process_return(batch, process, discount=credit.process_discount)
    awaited = outcome_return(batch, outcome, discount=credit.outcome_discount)
    return smoothed(batch, earned + awaited, smoothing=credit.smoothing)


def by_position(batch: StepBatch, value: Tensor) -> Tensor:
    """Return the values [S] as a table [R, longest rollout], 0 where a rollout has no step."""
    table = value.new_zeros(batch.num_rollouts, batch.max_rollout_steps)
    table[batch.rollout_of_step, batch.position_of_step] = value
    return table

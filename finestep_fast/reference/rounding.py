"""How far apart rounding can move returns that are equal, so that no credit comes of it.

Not a tolerance of the tests: a comparison set whose values are closer together than this gets 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig


def process_size(batch: StepBatch, step_reward: Tensor, *, credit: CreditConfig) -> Tensor:
    """Return `sum over the steps of |reward| + baseline`: what process returns are added up from.

    Args:
        batch: Which steps belong to which rollout.
        step_reward: [S] process rewards.
        credit: The settings.

    Returns:
        [R] sizes; 0 for a rollout without steps.
    """
    size = step_reward.abs() + credit.process_baseline
    return size.new_zeros(batch.num_rollouts).index_add(0, batch.rollout_of_step, size)


def rounding(batch: StepBatch, process_size: Tensor, outcome: Tensor) -> Tensor:
    """Return how far apart roundings may take two returns that would be equal without them.

    `(16 + 4n) eps (process size + |outcome|)`: no term of a return is rounded more than 4n + 4
    times on its way, by eps / 2 of itself each time. Rewards, baseline and outcome may cancel; what
    is left then says nothing of the roundings, so what was added up says it. For any
    return of the rollout: discounts are left out.

    Source: ours, after the error bound of a sum (Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, chapter 4).

    Args:
        batch: Which steps belong to which rollout.
        process_size: [R] weighted `process_size`.
        outcome: [R] weighted outcomes.

    Returns:
        [R] differences.
    """
    times = 16 + 4 * batch.step_offsets.diff().to(outcome.dtype)
    return times * torch.finfo(outcome.dtype).eps * (process_size + outcome.abs())

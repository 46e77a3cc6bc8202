"""Credit in plain PyTorch: from rewards to one advantage per step.

Read it after `returns` (1. temporal, 2. logical) and `comparison`, `state` and `value` (3. what a
return is held against); here are the channels (4.) and how it all comes together (5.).

The order is law: discount, then smooth, then compare. Comparing rewards position by position and
accumulating afterwards is biased whenever the policy chooses when to stop. Every faster version of
these files computes the same thing; nothing here checks its input or differentiates.

Everywhere, p is the process reward of a step minus the baseline b, O the outcome of a rollout, n
its number of steps, s = 0 .. n-1 a position in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig
from finestep_fast.reference.comparison import per_index, pooled, trajectory
from finestep_fast.reference.returns import return_to_go
from finestep_fast.reference.rounding import process_size, rounding
from finestep_fast.reference.state import state
from finestep_fast.reference.value import value_credit

Comparison = Callable[..., Tensor]
COMPARISONS: dict[str, Comparison] = {
    "pooled": pooled,
    "per_index": per_index,
    "trajectory": trajectory,
    "state": state,
}
"""The scopes that hold returns against each other; `value` holds them against an estimate."""


def step_advantage(
    batch: StepBatch,
    step_reward: Tensor,
    rollout_outcome: Tensor,
    *,
    step_state: Tensor | None = None,
    step_value: Tensor | None = None,
    credit: CreditConfig,
) -> Tensor:
    """Return what each step is worth.

    `A = lambda_step A^scope + lambda_rollout A^trajectory`, cut to +- advantage_clip.

    Source: the paper names step-level advantages; the combination is after MatchTIR
    (arXiv:2601.10712), the clip is ours.

    Args:
        batch: Which steps belong to which rollout and group; it must hold whole groups.
        step_reward: [S] process rewards in [0, 1].
        rollout_outcome: [R] outcomes.
        step_state: [S] int64 keys of the states; for scope `state`.
        step_value: [S] values of the states; for scope `value`.
        credit: The settings.

    Returns:
        [S] advantages, float64 for float64 rewards, else float32.
    """
    process, outcome = _rewards(step_reward, rollout_outcome, credit=credit)
    size = process_size(batch, step_reward.to(process.dtype), credit=credit)
    channels: Callable[..., Tensor] = partial(
        CHANNELS[credit.channels], batch, process, outcome, process_size=size, credit=credit
    )
    advantage = torch.zeros_like(process)
    if credit.step_weight != 0:
        if credit.scope == "value":
            assert step_value is not None
            by_step = value_credit(
                batch,
                process,
                outcome,
                step_value=step_value.to(process.dtype),
                rounding=rounding(batch, torch.zeros_like(size), outcome),
                credit=credit,
            )
        elif credit.scope == "state":
            assert step_state is not None
            by_step = channels(compare=partial(state, step_state=step_state))
        else:
            by_step = channels(compare=COMPARISONS[credit.scope])
        advantage += credit.step_weight * by_step
    if credit.rollout_weight != 0:
        advantage += credit.rollout_weight * channels(compare=trajectory)
    if credit.advantage_clip is not None:
        advantage = advantage.clamp(-credit.advantage_clip, credit.advantage_clip)
    return advantage


def step_return(
    batch: StepBatch, step_reward: Tensor, rollout_outcome: Tensor, *, credit: CreditConfig
) -> Tensor:
    """Return the mixed return of each step, discounted and smoothed: what `joint` channels compare.

    Args:
        batch: Which steps belong to which rollout.
        step_reward: [S] process rewards in [0, 1].
        rollout_outcome: [R] outcomes.
        credit: The settings.

    Returns:
        [S] returns.
    """
    process, outcome = _rewards(step_reward, rollout_outcome, credit=credit)
    return return_to_go(
        batch, credit.process_weight * process, credit.outcome_weight * outcome, credit=credit
    )


def _rewards(
    step_reward: Tensor, rollout_outcome: Tensor, *, credit: CreditConfig
) -> tuple[Tensor, Tensor]:
    """Process rewards [S] as a cost against a flawless step, and outcomes [R], as floats."""
    dtype = torch.promote_types(step_reward.dtype, rollout_outcome.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return step_reward.to(dtype) - credit.process_baseline, rollout_outcome.to(dtype)


# 4. Channels


def joint(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    process_size: Tensor,
    compare: Comparison,
    credit: CreditConfig,
) -> Tensor:
    """Compare the mixed return `w_p Q^process + w_o Q^outcome`.

    Source: ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] process rewards minus the baseline.
        outcome: [R] outcomes.
        process_size: [R] See the function of that name.
        compare: One of `COMPARISONS`.
        credit: The settings.

    Returns:
        [S] advantages.
    """
    return compare(
        batch,
        credit.process_weight * process,
        credit.outcome_weight * outcome,
        rounding=rounding(
            batch, credit.process_weight * process_size, credit.outcome_weight * outcome
        ),
        std_floor=credit.std_floor * credit.outcome_weight,
        credit=credit,
    )


def decoupled(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    process_size: Tensor,
    compare: Comparison,
    credit: CreditConfig,
) -> Tensor:
    """Compare the two returns apart: `w_p z(Q^process) + w_o z(Q^outcome)`.

    Source: ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] process rewards minus the baseline.
        outcome: [R] outcomes.
        process_size: [R] See the function of that name.
        compare: One of `COMPARISONS`.
        credit: The settings.

    Returns:
        [S] advantages.
    """
    floor = credit.std_floor
    no_process, no_outcome = torch.zeros_like(process), torch.zeros_like(outcome)
    by_process = compare(
        batch,
        process,
        no_outcome,
        rounding=rounding(batch, process_size, no_outcome),
        std_floor=floor,
        credit=credit,
    )
    by_outcome = compare(
        batch,
        no_process,
        outcome,
        rounding=rounding(batch, no_outcome, outcome),
        std_floor=floor,
        credit=credit,
    )
    return credit.process_weight * by_process + credit.outcome_weight * by_outcome


CHANNELS = {"joint": joint, "decoupled": decoupled}

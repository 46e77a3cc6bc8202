"""Credit in plain PyTorch: from rewards to one advantage per step. Read it from top to bottom.

The order is law: discount, then smooth, then compare. Comparing rewards position by position and
accumulating afterwards is biased whenever the policy chooses when to stop. Every faster version of
this file computes the same thing; nothing here checks its input or differentiates.

Below, p is the process reward of a step minus the baseline b, O the outcome of a rollout, n its
number of steps, s = 0 .. n-1 a position in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig
from finestep_fast.reference.rounding import process_size, rounding


def step_advantage(
    batch: StepBatch, step_reward: Tensor, rollout_outcome: Tensor, *, credit: CreditConfig
) -> Tensor:
    """Return what each step is worth against the others of its group.

    `A = lambda_step A^scope + lambda_rollout A^trajectory`, cut to +- advantage_clip.

    Source: the paper names step-level advantages; the combination is after MatchTIR
    (arXiv:2601.10712), the clip is ours.

    Args:
        batch: Which steps belong to which rollout and group; it must hold whole groups.
        step_reward: [S] process rewards in [0, 1].
        rollout_outcome: [R] outcomes.
        credit: The settings.

    Returns:
        [S] advantages, float64 for float64 rewards, else float32.
    """
    process, outcome = _rewards(step_reward, rollout_outcome, credit=credit)
    size = process_size(batch, step_reward.to(process.dtype), credit=credit)
    compare = CHANNELS[credit.channels]
    advantage = torch.zeros_like(process)
    for weight, scope in (
        (credit.step_weight, credit.scope),
        (credit.rollout_weight, "trajectory"),
    ):
        if weight != 0:
            advantage += weight * compare(
                batch, process, outcome, process_size=size, scope=scope, credit=credit
            )
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
    table = _table(batch, process)
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
    table = _table(batch, value)
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


def _table(batch: StepBatch, value: Tensor) -> Tensor:
    """The values of the steps as a table [R, longest rollout], 0 where a rollout has no step."""
    table = value.new_zeros(batch.num_rollouts, batch.max_rollout_steps)
    table[batch.rollout_of_step, batch.position_of_step] = value
    return table


# 3. Group-relative


def group_relative(
    value: Tensor,
    set_of_value: Tensor,
    *,
    rounding: Tensor,
    num_sets: int,
    std_floor: float,
    credit: CreditConfig,
) -> Tensor:
    """Return each value against the others of its comparison set.

    `A = (x - mean) / (max(std, floor) + epsilon)`; with std `none` only `x - mean`; with
    `leave_one_out` the mean of the other members. A spread within rounding counts as none.

    Source: the paper names group-relative normalisation, after GRPO; the floor is ours, from
    measurements: where all outcomes are alike, it keeps small process differences a tie-break.

    Args:
        value: [M] what is compared.
        set_of_value: [M] the comparison set of each value.
        rounding: [M] how far apart roundings alone may take two of them.
        num_sets: One more than the largest set.
        std_floor: Smallest standard deviation to divide by, in units of the value.
        credit: The settings.

    Returns:
        [M] advantages; 0 in a set with fewer than 2 members or without spread.
    """
    none = value.new_zeros(num_sets)
    count = none.index_add(0, set_of_value, torch.ones_like(value))
    total = none.index_add(0, set_of_value, value)
    others = (count - 1).clamp(min=1)
    deviation = value - (total / count.clamp(min=1))[set_of_value]
    square = none.index_add(0, set_of_value, deviation**2)
    low = none.scatter_reduce(0, set_of_value, value, "amin", include_self=False)
    high = none.scatter_reduce(0, set_of_value, value, "amax", include_self=False)
    within = none.scatter_reduce(0, set_of_value, rounding, "amax")
    alike = (count < 2) | (high - low <= within)

    if credit.leave_one_out:
        deviation = deviation * (count / others)[set_of_value]
    if credit.std != "none":
        freedom = others if credit.std == "sample" else count.clamp(min=1)
        std = (square / freedom).sqrt().clamp(min=std_floor)
        deviation = deviation / (std + credit.epsilon)[set_of_value]
    return torch.where(alike[set_of_value], 0.0, deviation)


def pooled(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    rounding: Tensor,
    std_floor: float,
    credit: CreditConfig,
) -> Tensor:
    """Compare the return of a step with those of all steps of its group.

    Source: ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] weighted process rewards.
        outcome: [R] weighted outcomes.
        rounding: [R] See the function of that name.
        std_floor: See `group_relative`.
        credit: The settings.

    Returns:
        [S] advantages.
    """
    value = return_to_go(batch, process, outcome, credit=credit)
    group = batch.group_of_rollout[batch.rollout_of_step]
    return group_relative(
        value,
        group,
        rounding=rounding[batch.rollout_of_step],
        num_sets=batch.num_groups,
        std_floor=std_floor,
        credit=credit,
    )


def per_index(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    rounding: Tensor,
    std_floor: float,
    credit: CreditConfig,
) -> Tensor:
    """Compare the return of a step with those of the group's steps at the same position.

    Source: after MatchTIR (arXiv:2601.10712).

    Args:
        batch: Which steps belong to which rollout.
        process: [S] weighted process rewards.
        outcome: [R] weighted outcomes.
        rounding: [R] See the function of that name.
        std_floor: See `group_relative`.
        credit: The settings.

    Returns:
        [S] advantages; 0 for a step whose position no other rollout of the group reaches.
    """
    value = return_to_go(batch, process, outcome, credit=credit)
    group = batch.group_of_rollout[batch.rollout_of_step]
    cell = group * batch.max_rollout_steps + batch.position_of_step
    return group_relative(
        value,
        cell,
        rounding=rounding[batch.rollout_of_step],
        num_sets=batch.num_groups * batch.max_rollout_steps,
        std_floor=std_floor,
        credit=credit,
    )


def trajectory(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    rounding: Tensor,
    std_floor: float,
    credit: CreditConfig,
) -> Tensor:
    """Compare the undiscounted sum of a rollout with those of its group, and give it to each step.

    Source: GRPO (arXiv:2402.03300).

    Args:
        batch: Which steps belong to which rollout.
        process: [S] weighted process rewards.
        outcome: [R] weighted outcomes.
        rounding: [R] See the function of that name.
        std_floor: See `group_relative`.
        credit: The settings.

    Returns:
        [S] advantages. A rollout without steps is in no comparison set.
    """
    total = outcome.index_add(0, batch.rollout_of_step, process)
    without_steps = batch.step_offsets.diff() == 0
    group = batch.group_of_rollout.masked_fill(without_steps, batch.num_groups)
    by_rollout = group_relative(
        total,
        group,
        rounding=rounding,
        num_sets=batch.num_groups + 1,
        std_floor=std_floor,
        credit=credit,
    )
    return by_rollout[batch.rollout_of_step]


SCOPES = {"pooled": pooled, "per_index": per_index, "trajectory": trajectory}


# 4. Channels


def joint(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    process_size: Tensor,
    scope: str,
    credit: CreditConfig,
) -> Tensor:
    """Compare the mixed return `w_p Q^process + w_o Q^outcome`.

    Source: ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] process rewards minus the baseline.
        outcome: [R] outcomes.
        process_size: [R] See the function of that name.
        scope: A key of `SCOPES`.
        credit: The settings.

    Returns:
        [S] advantages.
    """
    return SCOPES[scope](
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
    scope: str,
    credit: CreditConfig,
) -> Tensor:
    """Compare the two returns apart: `w_p z(Q^process) + w_o z(Q^outcome)`.

    Source: ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] process rewards minus the baseline.
        outcome: [R] outcomes.
        process_size: [R] See the function of that name.
        scope: A key of `SCOPES`.
        credit: The settings.

    Returns:
        [S] advantages.
    """
    compare, floor = SCOPES[scope], credit.std_floor
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

"""Group-relative credit: a return against those of its comparison set. Point 3 of credit.

Rollouts of a group that are alike in everything teach nothing: every scope here gives them 0. So a
step is compared with returns at its own position, never with those of other positions, which
differ by their discounts alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig
from finestep_fast.reference.returns import return_to_go


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
    low = none.scatter_reduce(0, set_of_value, value, "amin", include_self=False)
    high = none.scatter_reduce(0, set_of_value, value, "amax", include_self=False)
    within = none.scatter_reduce(0, set_of_value, rounding, "amax")
    alike = (count < 2) | (high - low <= within)

    if credit.leave_one_out:
        deviation = deviation * (count / others)[set_of_value]
    if credit.std != "none":
        std = set_std(value, set_of_value, num_sets=num_sets, credit=credit)
        deviation = deviation / (std.clamp(min=std_floor) + credit.epsilon)[set_of_value]
    return torch.where(alike[set_of_value], 0.0, deviation)


def set_std(value: Tensor, set_of_value: Tensor, *, num_sets: int, credit: CreditConfig) -> Tensor:
    """Return the sample or population standard deviation of each set, as `credit.std` says.

    Args:
        value: [M] values.
        set_of_value: [M] the set of each value.
        num_sets: One more than the largest set.
        credit: The settings.

    Returns:
        [num_sets] standard deviations; 0 for a set with fewer than 2 members.
    """
    none = value.new_zeros(num_sets)
    count = none.index_add(0, set_of_value, torch.ones_like(value))
    mean = none.index_add(0, set_of_value, value) / count.clamp(min=1)
    square = none.index_add(0, set_of_value, (value - mean[set_of_value]) ** 2)
    freedom = count - 1 if credit.std == "sample" else count
    return (square / freedom.clamp(min=1)).sqrt()


def pooled(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    rounding: Tensor,
    std_floor: float,
    credit: CreditConfig,
) -> Tensor:
    """Compare the return of a step with where every rollout of its group stood at that position.

    A rollout that has ended stands where it ended: at the return of its last step. So each position
    has as many members as the group has rollouts.

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
    table = carried(batch, return_to_go(batch, process, outcome, credit=credit))
    num_positions = batch.max_rollout_steps
    without_steps = batch.step_offsets.diff() == 0
    group = batch.group_of_rollout.masked_fill(without_steps, batch.num_groups)
    position = torch.arange(num_positions, device=batch.device)
    by_place = group_relative(
        table.flatten(),
        (group[:, None] * num_positions + position).flatten(),
        rounding=rounding[:, None].expand_as(table).flatten(),
        num_sets=(batch.num_groups + 1) * num_positions,
        std_floor=std_floor,
        credit=credit,
    )
    return by_place.view_as(table)[batch.rollout_of_step, batch.position_of_step]


def carried(batch: StepBatch, value: Tensor) -> Tensor:
    """Return where each rollout stands at each position, also after its end.

    Args:
        batch: Which steps belong to which rollout.
        value: [S] values of the steps.

    Returns:
        [R, longest rollout]: the value of the step there, or of the last one before; of no meaning
        for a rollout without steps.
    """
    position = torch.arange(batch.max_rollout_steps, device=batch.device)
    last = batch.step_offsets.diff()[:, None] - 1
    step = batch.step_offsets[:-1, None] + position.minimum(last)
    return value[step.clamp(min=0)]


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

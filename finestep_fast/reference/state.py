"""Scope `state` of credit: a step against what others of its group got from the same state."""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig
from finestep_fast.reference.comparison import carried, set_std
from finestep_fast.reference.returns import return_to_go


def state(
    batch: StepBatch,
    process: Tensor,
    outcome: Tensor,
    *,
    step_state: Tensor,
    rounding: Tensor,
    std_floor: float,
    credit: CreditConfig,
) -> Tensor:
    """Compare the return of a step with those that other rollouts got from the same state.

    `A_s = (Q~_s - V_s) / (max(std, floor) + epsilon)` with
    `V_s = (sum of Q~ over the others that were in the state + k_0 m_s) / (their number + k_0)`.
    The others are rollouts, never the step's own. One that was in the state several times counts
    once: at its j-th visit for the j-th visit of the step's rollout, at its last visit if it had
    fewer. `m_s` is what `pooled` compares with, without the step's own rollout: the mean of where
    the others stood at the step's position. `std` is that of all steps of the group.

    The baseline depends on nothing that the rollout does at the step or after it, so without the
    division the gradient is unbiased although the policy chooses when to stop. For k_0 -> infinity
    and for equal states everywhere it is the baseline of `pooled` with `leave_one_out`.

    Source: states after GiGPO (arXiv:2505.10978); leaving out the own rollout, visits and the
    shrinkage towards m are ours.

    Args:
        batch: Which steps belong to which rollout.
        process: [S] weighted process rewards.
        outcome: [R] weighted outcomes.
        step_state: [S] int64 keys; equal ones in a group are the same state.
        rounding: [R] See the function of that name.
        std_floor: See `group_relative`.
        credit: The settings; k_0 is `state_shrinkage`.

    Returns:
        [S] advantages; 0 where no other rollout of the group has steps, and where there is nothing
        to compare with: k_0 is 0 and the state has no other visitor.
    """
    exact = return_to_go(batch, process, outcome, credit=credit)
    value = exact.double()  # the sums of the others are differences
    group = batch.group_of_rollout[batch.rollout_of_step]
    others, total = _other_visitors(batch, group, step_state, value)
    num_members, mean = _other_rollouts(batch, value)
    pseudo = credit.state_shrinkage
    baseline = (total + pseudo * mean) / (others + pseudo).clamp(min=torch.finfo(value.dtype).tiny)
    deviation = value - baseline

    largest = rounding.new_zeros(batch.num_groups).scatter_reduce(
        0, group, rounding[batch.rollout_of_step], "amax"
    )
    nothing = (num_members < 2) | (others + pseudo == 0) | (deviation.abs() <= largest[group])
    if credit.std != "none":
        std = set_std(value, group, num_sets=batch.num_groups, credit=credit)
        deviation = deviation / (std.clamp(min=std_floor) + credit.epsilon)[group]
    return torch.where(nothing, 0.0, deviation).to(exact.dtype)


def _other_visitors(
    batch: StepBatch, group: Tensor, step_state: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how many other rollouts were in a step's state, and the sum of their values: [S]."""
    state = _numbered(group, step_state)
    stay = _numbered(batch.rollout_of_step, step_state)  # a rollout in a state, all its visits
    none = value.new_zeros(batch.num_steps)
    visits = none.index_add(0, stay, torch.ones_like(value)).long()
    order = stay.argsort(stable=True)
    first = visits.cumsum(0) - visits
    visit = torch.empty_like(stay)
    visit[order] = torch.arange(batch.num_steps, device=batch.device) - first[stay[order]]

    by_visit = value.new_zeros(batch.num_steps, batch.max_rollout_steps)
    by_visit[stay, visit] = value
    number = torch.arange(batch.max_rollout_steps, device=batch.device)
    by_visit = by_visit.gather(1, number.minimum(visits[:, None] - 1).clamp(min=0))
    state_of_stay = torch.zeros_like(stay)
    state_of_stay[stay] = state
    total = torch.zeros_like(by_visit).index_add(0, state_of_stay, by_visit)
    visitors = none.index_add(0, state_of_stay, (visits > 0).to(value.dtype))
    return visitors[state] - 1, total[state, visit] - value


def _other_rollouts(batch: StepBatch, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each step how many rollouts with steps its group has, and the others' mean."""
    has_steps = (batch.step_offsets.diff() > 0).to(value.dtype)
    table = torch.where(has_steps[:, None] > 0, carried(batch, value), 0.0)
    total = table.new_zeros(batch.num_groups, batch.max_rollout_steps)
    total = total.index_add(0, batch.group_of_rollout, table)
    members = has_steps.new_zeros(batch.num_groups)
    members = members.index_add(0, batch.group_of_rollout, has_steps)
    group = batch.group_of_rollout[batch.rollout_of_step]
    others = total[group, batch.position_of_step] - value
    return members[group], others / (members[group] - 1).clamp(min=1)


def _numbered(owner: Tensor, key: Tensor) -> Tensor:
    """Return a number below S for each pair of an owner and a key; equal pairs have equal ones."""
    order = key.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    owner, key = owner[order], key[order]
    new = torch.ones_like(owner)
    new[1:] = ((owner[1:] != owner[:-1]) | (key[1:] != key[:-1])).to(new.dtype)
    number = torch.empty_like(owner)
    number[order] = new.cumsum(0) - 1
    return number

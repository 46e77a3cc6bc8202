"""Credit for the rollouts of an update: a return and an advantage for every step that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from finestep_fast import CreditConfig, StepBatch, reference, step_advantage
from finestep_fast.errors import InputError
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.value import StepValues

ValuesOf = Callable[[Sequence[Rollout]], Sequence[StepValues | None]]


def credited(
    rollouts: Sequence[Rollout],
    credit: CreditConfig,
    *,
    drop_uniform_groups: bool,
    impl: str = "auto",
    values_of: ValuesOf | None = None,
) -> list[Rollout]:
    """Return the rollouts, with returns and advantages where they are learnt from.

    Args:
        rollouts: All rollouts of the update; the statistics leave out those that do not count.
        credit: From rewards to advantages.
        drop_uniform_groups: Whether groups whose rollouts all have the same outcome are left out.
        impl: Who computes the advantages; see `step_advantage`.
        values_of: From all rollouts of the update to the values of their steps, for scope `value`;
            it is called once. Groups whose values are not fitted get lambda 1.

    Returns:
        The rollouts in their order. One that does not count, has no step or is in a group that was
        left out has neither return nor advantage.

    Raises:
        InputError: The scope is `value`, and `values_of` is not given.
    """
    made = list(rollouts)
    if credit.scope == "value" and values_of is None:
        raise InputError("values_of is not given; credit.scope 'value' needs the steps' values")
    nothing: list[StepValues | None] = [None] * len(made)
    values = values_of(rollouts) if credit.scope == "value" and values_of else nothing
    made = [
        rollout if value is None else replace(rollout, step_value=value.value)
        for rollout, value in zip(made, values, strict=True)
    ]
    places = [
        place
        for place, rollout in enumerate(rollouts)
        if rollout.score.counted and rollout.transcript.step_spans
    ]
    if drop_uniform_groups:
        places = _in_mixed_groups(places, rollouts)
    constant = {p for p, value in enumerate(values) if value is not None and not value.is_fitted}
    parts = (
        ([place for place in places if place not in constant], credit),
        ([place for place in places if place in constant], replace(credit, gae_lambda=1.0)),
    )
    # Groups are credited apart from each other, so two calls give what one would.
    for part, settings in parts:
        credits = _credits([made[place] for place in part], settings, impl)
        for place, (step_return, advantage) in zip(part, credits, strict=True):
            made[place] = replace(made[place], step_return=step_return, step_advantage=advantage)
    return made


def _credits(
    learnt: Sequence[Rollout], credit: CreditConfig, impl: str
) -> Iterable[tuple[Tensor, Tensor]]:
    """Return return and advantage of the steps of rollouts that all have some, in their order."""
    if not learnt:
        return ()
    # Credit needs steps, rollouts and groups, not tokens: the spans are those of a packed axis.
    spans, first = [], 0
    for rollout in learnt:
        transcript = rollout.transcript
        spans.append([(first + start, first + end) for start, end in transcript.step_spans])
        first += len(transcript.token_ids)
    number = {group: n for n, group in enumerate(sorted({rollout.group for rollout in learnt}))}
    batch = StepBatch.from_spans(
        spans, [number[rollout.group] for rollout in learnt], num_tokens=first
    )
    step_reward = torch.tensor([value for rollout in learnt for value in rollout.score.process])
    outcome = torch.tensor([float(rollout.score.outcome) for rollout in learnt])
    states = [state for rollout in learnt for state in rollout.score.states]
    values = [rollout.step_value for rollout in learnt if rollout.step_value is not None]
    counts = [len(rollout.transcript.step_spans) for rollout in learnt]
    advantages = step_advantage(
        batch,
        step_reward,
        outcome,
        step_state=torch.tensor(states) if credit.scope == "state" else None,
        step_value=torch.cat(values) if credit.scope == "value" else None,
        credit=credit,
        impl=impl,
    )
    returns = reference.step_return(batch, step_reward, outcome, credit=credit)
    return zip(returns.split(counts), advantages.split(counts), strict=True)


def _in_mixed_groups(places: list[int], rollouts: Sequence[Rollout]) -> list[int]:
    """Return the places of rollouts whose group has more than one outcome."""
    outcomes: dict[int, set[float]] = {}
    for place in places:
        outcomes.setdefault(rollouts[place].group, set()).add(rollouts[place].score.outcome)
    return [place for place in places if len(outcomes[rollouts[place].group]) > 1]

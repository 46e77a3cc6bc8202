"""Credit for the rollouts of an update: a return and an advantage for every step that counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from finestep_fast import CreditConfig, StepBatch, reference, step_advantage
from finestep_fast.train.rollout.record import Rollout


def credited(
    rollouts: Sequence[Rollout],
    credit: CreditConfig,
    *,
    drop_uniform_groups: bool,
    impl: str = "auto",
) -> list[Rollout]:
    """Return the rollouts, with returns and advantages where they are learnt from.

    Args:
        rollouts: All rollouts of the update; the statistics leave out those that do not count.
        credit: From rewards to advantages.
        drop_uniform_groups: Whether groups whose rollouts all have the same outcome are left out.
        impl: Who computes the advantages; see `step_advantage`.

    Returns:
        The rollouts in their order. One that does not count, has no step or is in a group that was
        left out has neither return nor advantage.
    """
    made = list(rollouts)
    places = [
        place
        for place, rollout in enumerate(rollouts)
        if rollout.score.counted and rollout.transcript.step_spans
    ]
    if drop_uniform_groups:
        places = _in_mixed_groups(places, rollouts)
    if not places:
        return made
    learnt = [rollouts[place] for place in places]
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
    counts = [len(rollout.transcript.step_spans) for rollout in learnt]
    advantages = step_advantage(batch, step_reward, outcome, credit=credit, impl=impl).split(counts)
    returns = reference.step_return(batch, step_reward, outcome, credit=credit).split(counts)
    for place, step_return, advantage in zip(places, returns, advantages, strict=True):
        made[place] = dataclasses.replace(
            made[place], step_return=step_return, step_advantage=advantage
        )
    return made


def _in_mixed_groups(places: list[int], rollouts: Sequence[Rollout]) -> list[int]:
    """Return the places of rollouts whose group has more than one outcome."""
    outcomes: dict[int, set[float]] = {}
    for place in places:
        outcomes.setdefault(rollouts[place].group, set()).add(rollouts[place].score.outcome)
    return [place for place in places if len(outcomes[rollouts[place].group]) > 1]

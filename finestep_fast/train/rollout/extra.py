"""Dynamic sampling: more questions for an update until enough groups have something to compare.

Source: DAPO (arXiv:2503.14476); the cap, and extra questions from a stream of their own, are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from finestep_fast.env.question import Question
from finestep_fast.train.rollout.record import Rollout

Play = Callable[[Sequence[Question], int], list[Rollout]]


def extra_questions(
    questions: Sequence[Question], asked: Sequence[Question], *, seed: int, update: int, most: int
) -> list[Question]:
    """Return the questions that an update may ask beyond its own.

    They depend on the seed and the update alone, so neither a resumed run nor the questions of
    other updates change with how many of them were needed.

    Args:
        questions: All training questions.
        asked: Those of the update, which are left out.
        seed: Of the run.
        update: Number of the update.
        most: How many at most.
    """
    own = {question.question_id for question in asked}
    # The order of the passes over the questions comes from [seed, epoch]; this is another stream.
    order = np.random.default_rng([seed, update, 1]).permutation(len(questions))
    left = [questions[n] for n in order if questions[n].question_id not in own]
    return left[:most]


def with_extra_groups(
    rollouts: list[Rollout],
    extra: Sequence[Question],
    *,
    wanted: int,
    play: Play,
    summed: Callable[[int], int],
) -> list[Rollout]:
    """Return the rollouts of an update and of as many extra questions as it needs.

    Each round asks as many questions as mixed groups are missing, until none is or none is left.

    Args:
        rollouts: This process's rollouts of the update's own questions.
        extra: All extra questions that may be asked, the same on all processes.
        wanted: How many groups, over all processes, must have rollouts with different outcomes.
        play: From questions for all processes, and the number of the round, to this process's
            rollouts of its share of them.
        summed: From a number of this process to the sum over all processes.
    """
    made = list(rollouts)
    asked = number = 0
    while asked < len(extra):
        missing = wanted - summed(num_mixed_groups(made))
        if missing <= 0:
            break
        questions = extra[asked : asked + missing]
        asked += len(questions)
        first = 1 + max((rollout.group for rollout in made), default=-1)
        made += [
            dataclasses.replace(rollout, group=first + rollout.group)
            for rollout in play(questions, number)
        ]
        number += 1
    return made


def num_mixed_groups(rollouts: Sequence[Rollout]) -> int:
    """Return how many groups have rollouts that count with different outcomes."""
    outcomes: dict[int, set[float]] = {}
    for rollout in rollouts:
        if rollout.score.counted:
            outcomes.setdefault(rollout.group, set()).add(rollout.score.outcome)
    return sum(len(found) > 1 for found in outcomes.values())

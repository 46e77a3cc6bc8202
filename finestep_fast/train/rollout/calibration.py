"""How good the values of an update were: against the outcomes, which they did not know.

A value is fitted on other groups, so its error here is that on rollouts it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from finestep_fast.train import metrics
from finestep_fast.train.rollout.record import Rollout

NUM_BINS = 10
"""Of the reliability table; equal parts of [0, 1]."""


class Judged(NamedTuple):
    """One step's value beside what came of it."""

    place: int
    """Position of the step in its rollout."""
    value: float
    """Value of the state in which it was taken."""
    outcome: float
    """Of its rollout."""


def calibration(
    rollouts: Sequence[Rollout], *, gather: Callable[[list[Any]], list[Any]] = list
) -> dict[str, Any]:
    """Return how far the values of an update's steps were from the outcomes.

    Args:
        rollouts: Those of this process; one without values says nothing.
        gather: Return the items of all processes.

    Returns:
        `value_brier`: the mean squared difference over all steps, None without any;
        `value_brier_by_step`: the same at each position in a rollout;
        `value_reliability`: for each tenth of [0, 1] that holds values the number of steps, their
        mean value and their mean outcome.
    """
    judged: list[Judged] = gather(
        [
            Judged(place, value, rollout.score.outcome)
            for rollout in rollouts
            if rollout.step_value is not None
            for place, value in enumerate(rollout.step_value.tolist())
        ]
    )
    by_place: dict[int, list[Judged]] = {}
    by_bin: dict[int, list[Judged]] = {}
    for item in judged:
        by_place.setdefault(item.place, []).append(item)
        by_bin.setdefault(min(int(item.value * NUM_BINS), NUM_BINS - 1), []).append(item)
    return {
        metrics.VALUE_BRIER: _brier(judged) if judged else None,
        metrics.VALUE_BRIER_BY_STEP: [_brier(by_place[place]) for place in sorted(by_place)],
        metrics.VALUE_RELIABILITY: [
            {
                "from": number / NUM_BINS,
                "steps": len(items),
                "value": sum(item.value for item in items) / len(items),
                "outcome": sum(item.outcome for item in items) / len(items),
            }
            for number, items in sorted(by_bin.items())
        ],
    }


def _brier(items: Sequence[Judged]) -> float:
    return sum((item.value - item.outcome) ** 2 for item in items) / len(items)

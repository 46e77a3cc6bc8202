"""The value of a state: an estimate of the chance that a rollout will be right in the end.

Two values, `history` and `gold`, each a ridge regression of the outcome on a few features of a
state. The values of a group come from the other groups of the update and, fading, from earlier
updates. There is no network: what a critic remembers is one small matrix of sums, kept with the
run's state, so a resumed run goes on exactly.

Source: features, fit and the gold value are ours; that the critic may know more than the policy is
from asymmetric actor-critic (arXiv:1710.06542).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finestep_fast.errors import InputError
from finestep_fast.train.config import ValueKind
from finestep_fast.train.rollout.coverage import num_seen
from finestep_fast.train.rollout.record import Rollout

Array = NDArray[np.float64]

MIN_OTHER_GROUPS = 3
"""With fewer groups to fit on, a group has no fitted value."""
_NUM_FEATURES: dict[ValueKind, int] = {"history": 7, "gold": 9}
PENALTY = 1.0
"""Of the squared weights, except that of the constant: weights shrink towards the mean outcome."""


class StepValues(NamedTuple):
    """The values of one rollout's states."""

    value: Tensor
    """[n] float64 value of the state in which each step was taken, in [0, 1]."""
    is_fitted: bool
    """Whether the values tell the steps of the group apart. If not they are one number, which only
    credit that trusts the outcome alone (lambda 1) can use."""


class _Sums(NamedTuple):
    """What a fit needs to know of some groups."""

    square: Array
    """[F, F] sum of x x^T over their steps."""
    moment: Array
    """[F] sum of x O over their steps."""
    groups: float = 1.0
    """How many they are; less for those of earlier updates."""

    def __add__(self, other: _Sums) -> _Sums:  # type: ignore[override]
        """Return the sums over both."""
        return _Sums(
            self.square + other.square, self.moment + other.moment, self.groups + other.groups
        )

    def faded(self, share: float) -> _Sums:
        """Return a share of the sums."""
        return _Sums(share * self.square, share * self.moment, share * self.groups)


class Critic:
    """Gives the states of an update their values, and remembers what the update showed.

    With `m = (sum of the outcomes of the group's other rollouts + 1/2) / (size of the group)`:

    - `history`: `x = [1, m, ok/3, failed/2, repeats/2, s/max_steps, m ok/3]`: calls so far that
      were new and ran, that failed or were malformed, that repeated an earlier one.
    - `gold`: `x = [1, m, c, u/3, c^2, m c, (u = 0), s/max_steps, a]`: share c of the gold query's
      facts that the rollout has been shown, number u of those it has not, see `coverage`; a is 1
      once a query of the rollout has had the gold query's result.

    The value is `w x`, cut to [0, 1]; w is the ridge regression of O on x over all steps of the
    update's other groups and of those of earlier updates, each of which counts `memory` times as
    much as the one after it.

    Args:
        kind: Which value.
        max_steps: The most steps that a rollout may have.
        memory: In [0, 1); 0 looks at the update alone.
        rank: Number of this process.
        gather: Return the items of all processes; each process calls it once an update.
        remembered: What `remembered` was in the run that is continued.

    Raises:
        InputError: `remembered` is not of this kind of value.
    """

    def __init__(
        self,
        kind: ValueKind,
        *,
        max_steps: int,
        memory: float = 0.0,
        rank: int = 0,
        gather: Callable[[list[Any]], list[Any]] = list,
        remembered: Sequence[float] = (),
    ) -> None:
        self.kind, self.max_steps, self.memory = kind, max_steps, memory
        self.rank, self.gather = rank, gather
        self._past = _unpacked(remembered, _NUM_FEATURES[kind])

    @property
    def remembered(self) -> list[float]:
        """Return the sums of earlier updates as plain numbers; empty if there are none."""
        if self._past is None:
            return []
        return [self._past.groups, *self._past.moment.tolist(), *self._past.square.ravel().tolist()]

    def step_values(self, rollouts: Sequence[Rollout]) -> list[StepValues | None]:
        """Return the values of all states of an update's rollouts.

        Args:
            rollouts: Those of this process; only those that count and have steps take part.

        Returns:
            The values of each rollout in their order; None where it takes no part. They are the
            constant m where fewer than 3 groups could be fitted on, faded ones counted as such, or
            the gold query names nothing.
        """
        members: dict[int, list[int]] = {}
        for place, rollout in enumerate(rollouts):
            if rollout.score.counted and rollout.transcript.step_spans:
                members.setdefault(rollout.group, []).append(place)
        features: dict[int, list[Array]] = {}
        for group, places in members.items():
            rows = _features([rollouts[place] for place in places], self.kind, self.max_steps)
            if rows is not None:
                features[group] = rows
        sums = [
            (
                (self.rank, group),
                _sums(rows, [rollouts[place].score.outcome for place in members[group]]),
            )
            for group, rows in features.items()
        ]
        every: list[tuple[tuple[int, int], _Sums]] = self.gather(sums)

        values: list[StepValues | None] = [None] * len(rollouts)
        for group, places in members.items():
            others = [item for owner, item in every if owner != (self.rank, group)]
            if self._past is not None:
                others.append(self._past)
            weights = None
            if group in features and sum(item.groups for item in others) >= MIN_OTHER_GROUPS:
                weights = ridge_weights(others)
            priors = prior_values([rollouts[place].score.outcome for place in places])
            for number, place in enumerate(places):
                if weights is None:
                    value = np.full(len(rollouts[place].transcript.step_spans), priors[number])
                else:
                    value = np.clip(features[group][number] @ weights, 0.0, 1.0)
                values[place] = StepValues(torch.from_numpy(value), weights is not None)
        self._remember([item for _, item in every])
        return values

    def _remember(self, update: Sequence[_Sums]) -> None:
        if not self.memory:
            return
        for item in update:
            self._past = item if self._past is None else self._past + item
        if self._past is not None:
            self._past = self._past.faded(self.memory)


def ridge_weights(groups: Sequence[_Sums]) -> Array:
    """Return the weights [F] that predict the outcome over all steps of some groups best.

    `w = (sum x x^T + penalty)^-1 sum x O`; the penalty is 1 except for the constant.
    """
    square = np.sum([group.square for group in groups], axis=0)
    moment = np.sum([group.moment for group in groups], axis=0)
    penalty = np.full(len(moment), PENALTY)
    penalty[0] = 0.0
    weights: Array = np.linalg.solve(square + np.diag(penalty), moment)
    return weights


def prior_values(outcomes: Sequence[float]) -> list[float]:
    """Return m of each rollout of a group: what the others say of the question, drawn to 1/2."""
    total = sum(outcomes)
    return [(total - outcome + 0.5) / len(outcomes) for outcome in outcomes]


def history_features(rollout: Rollout, prior: float, max_steps: int) -> Array:
    """Return the features of a rollout's states for the value `history`, [n, 7].

    A call that failed is not counted as a repeat as well.
    """
    ok = failed = repeats = 0
    rows = []
    for place, values in enumerate(rollout.score.validators):
        rows.append(
            [1.0, prior, ok / 3, failed / 2, repeats / 2, place / max_steps, prior * ok / 3]
        )
        if values["executes"] < 1:  # malformed steps among them
            failed += 1
        elif values["novel"] < 1:
            repeats += 1
        else:
            ok += 1
    return np.array(rows)


def gold_features(
    prior: float,
    num_facts: int,
    num_seen_facts: Sequence[int],
    found: Sequence[bool],
    max_steps: int,
) -> Array:
    """Return the features of a rollout's states for the value `gold`, [n, 9].

    Args:
        prior: m.
        num_facts: How many facts the gold query has.
        num_seen_facts: [n] how many had been seen before each step.
        found: [n] whether a step ran a query with the gold query's result.
        max_steps: The most steps that a rollout may have.
    """
    rows = []
    for place, seen in enumerate(num_seen_facts):
        share, unseen = seen / num_facts, num_facts - seen
        quadratic = [share**2, prior * share]
        rows.append(
            [
                *(1.0, prior, share, unseen / 3, *quadratic),
                *(float(unseen == 0), place / max_steps, float(any(found[:place]))),
            ]
        )
    return np.array(rows)


def _features(group: Sequence[Rollout], kind: ValueKind, max_steps: int) -> list[Array] | None:
    """Return the features of each rollout of a group; None where the gold query names nothing."""
    priors = prior_values([rollout.score.outcome for rollout in group])
    if kind == "history":
        return [
            history_features(rollout, prior, max_steps)
            for rollout, prior in zip(group, priors, strict=True)
        ]
    rows = []
    for rollout, prior in zip(group, priors, strict=True):
        num_facts, seen = num_seen(rollout.transcript.episode)
        if not num_facts:
            return None
        rows.append(gold_features(prior, num_facts, seen, rollout.score.found, max_steps))
    return rows


def _sums(rows: Sequence[Array], outcomes: Sequence[float]) -> _Sums:
    """Return what a fit needs to know of a group, from the features [n, F] of its rollouts."""
    features = np.concatenate(rows)
    outcome = np.repeat(np.asarray(outcomes, dtype=np.float64), [len(item) for item in rows])
    return _Sums(features.T @ features, features.T @ outcome)


def _unpacked(remembered: Sequence[float], num_features: int) -> _Sums | None:
    """Return the sums that a critic's plain numbers stand for.

    Raises:
        InputError: Their number is not that of the features.
    """
    if not remembered:
        return None
    numbers = np.array(remembered, dtype=np.float64)
    expected = 1 + num_features + num_features**2
    if len(numbers) != expected:
        raise InputError(
            f"remembered has {len(numbers)} numbers; "
            f"a value of {num_features} features needs {expected}"
        )
    moment, square = numbers[1 : 1 + num_features], numbers[1 + num_features :]
    return _Sums(square.reshape(num_features, num_features), moment, float(numbers[0]))

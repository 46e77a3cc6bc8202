"""The values of states: what a fit may know, what it remembers, and the credit that values give."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from finestep_fast import CreditConfig, InputError, StepBatch, reference
from finestep_fast.env.calls import ToolCall
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine
from finestep_fast.train.config import ValueKind
from finestep_fast.train.rollout.calibration import calibration
from finestep_fast.train.rollout.coverage import num_seen
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.value import (
    Critic,
    StepValues,
    gold_features,
    history_features,
    prior_values,
)
from support.databases import written
from support.played import GARBAGE, looks, played, runs, submits
from support.settings import VALUE_ALONE

GOLD = "SELECT name FROM customer WHERE city = 'London'"
LIST, CUSTOMER, ORDER = ToolCall("list_tables", {}), looks("customer"), looks("Order Item")
COUNT, WRONG = runs("SELECT count(*) FROM customer"), submits("SELECT 1")
RIGHT = submits(GOLD)
KINDS: tuple[ValueKind, ...] = ("gold", "history")
MAX_STEPS = 5


def values_by(
    rollouts: Sequence[Rollout], kind: ValueKind, **settings: Any
) -> list[StepValues | None]:
    """Return the values that a critic gives which has seen nothing before."""
    return Critic(kind, max_steps=MAX_STEPS, **settings).step_values(rollouts)


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    database = written(tmp_path_factory.mktemp("values") / "shop.sqlite")
    return Question("1", "Who lives in London?", GOLD, "shop", database)


@pytest.fixture(scope="module")
def groups(question: Question) -> list[list[Rollout]]:
    """Return four groups of three rollouts."""
    calls: list[list[list[ToolCall | str]]] = [
        [[LIST, CUSTOMER, RIGHT], [CUSTOMER, CUSTOMER, RIGHT], [LIST, ORDER, WRONG]],
        [[CUSTOMER, RIGHT], [GARBAGE, LIST, CUSTOMER, COUNT, RIGHT], [COUNT, WRONG]],
        [[WRONG], [LIST, LIST, LIST, LIST], [CUSTOMER, COUNT, RIGHT]],
        [[LIST, CUSTOMER, WRONG], [ORDER, WRONG], [ORDER, CUSTOMER, RIGHT]],
    ]
    with Engine() as engine:
        return [played(question, engine, *some, group=n) for n, some in enumerate(calls)]


@pytest.fixture(scope="module")
def rollouts(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def values(made: Sequence[StepValues | None]) -> list[list[float]]:
    """Return the values of rollouts that all have some."""
    return [item.value.tolist() for item in made if item is not None]


def with_outcome(rollout: Rollout, outcome: float) -> Rollout:
    """Return the rollout with another outcome."""
    return dataclasses.replace(rollout, score=dataclasses.replace(rollout.score, outcome=outcome))


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_ridge_regression_on_the_other_groups(
    groups: list[list[Rollout]], rollouts: list[Rollout], kind: ValueKind
) -> None:
    def features(group: list[Rollout]) -> list[np.ndarray]:
        priors = prior_values([rollout.score.outcome for rollout in group])
        if kind == "history":
            pairs = zip(group, priors, strict=True)
            return [history_features(item, prior, MAX_STEPS) for item, prior in pairs]
        seen = [num_seen(item.transcript.episode) for item in group]
        return [gold_features(p, *s, (), MAX_STEPS) for p, s in zip(priors, seen, strict=True)]

    found = values(values_by(rollouts, kind))
    for left_out in range(4):
        others = [group for n, group in enumerate(groups) if n != left_out]
        x = np.concatenate([rows for group in others for rows in features(group)])
        o = np.concatenate(
            [
                np.full(len(rows), rollout.score.outcome)
                for group in others
                for rollout, rows in zip(group, features(group), strict=True)
            ]
        )
        # The penalty as rows of data: sqrt(1) on every weight but the constant's.
        penalty = np.eye(x.shape[1])[1:]
        weights, *_ = np.linalg.lstsq(
            np.concatenate([x, penalty]), np.concatenate([o, np.zeros(len(penalty))]), rcond=None
        )
        for place, rows in enumerate(features(groups[left_out])):
            expected = np.clip(rows @ weights, 0, 1)
            assert_allclose(found[3 * left_out + place], expected, atol=1e-12)
    flat = [value for item in found for value in item]
    assert 0 <= min(flat) < max(flat) <= 1


def test_earlier_updates_count_less_and_less(
    groups: list[list[Rollout]],
) -> None:
    def rows(group: list[Rollout], weight: float) -> tuple[np.ndarray, np.ndarray]:
        priors = prior_values([rollout.score.outcome for rollout in group])
        pairs = list(zip(group, priors, strict=True))
        x = np.concatenate([history_features(item, prior, MAX_STEPS) for item, prior in pairs])
        o = np.concatenate([np.full(len(r.score.validators), r.score.outcome) for r in group])
        return np.sqrt(weight) * x, np.sqrt(weight) * o

    critic = Critic("history", max_steps=MAX_STEPS, memory=0.9)
    critic.step_values([*groups[0], *groups[1]])
    critic.step_values([*groups[2], *groups[1]])
    found = values(critic.step_values(groups[3]))
    past = [rows(groups[n], 0.9**age) for n, age in ((0, 2), (1, 2), (2, 1), (1, 1))]
    penalty = np.eye(7)[1:]
    weights, *_ = np.linalg.lstsq(
        np.concatenate([*(x for x, _ in past), penalty]),
        np.concatenate([*(o for _, o in past), np.zeros(len(penalty))]),
        rcond=None,
    )
    priors = prior_values([rollout.score.outcome for rollout in groups[3]])
    for item, prior, value in zip(groups[3], priors, found, strict=True):
        expected = np.clip(history_features(item, prior, MAX_STEPS) @ weights, 0, 1)
        assert_allclose(value, expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_goes_on_from_what_it_remembered(rollouts: list[Rollout], kind: ValueKind) -> None:
    settings: dict[str, Any] = {"max_steps": MAX_STEPS, "memory": 0.9}
    first = Critic(kind, **settings)
    first.step_values(rollouts)
    again = Critic(kind, **settings, remembered=json.loads(json.dumps(first.remembered)))
    one = first.step_values(rollouts[:3])  # a single group: it is fitted on the past alone
    assert [item is not None and item.is_fitted for item in one] == [True] * 3
    assert values(again.step_values(rollouts[:3])) == values(one)
    assert again.remembered == first.remembered
    assert Critic(kind, max_steps=MAX_STEPS).remembered == []


def test_what_was_remembered_of_another_kind_is_refused(rollouts: list[Rollout]) -> None:
    critic = Critic("gold", max_steps=MAX_STEPS, memory=0.9)
    critic.step_values(rollouts)
    with pytest.raises(InputError, match=r"remembered has 91 numbers; .* 7 features needs 57"):
        Critic("history", max_steps=MAX_STEPS, remembered=critic.remembered)


@pytest.mark.parametrize("kind", KINDS)
def test_the_outcomes_of_a_group_move_its_own_values_through_the_prior_alone(
    rollouts: list[Rollout], kind: ValueKind
) -> None:
    before = values_by(rollouts, kind)
    # Two rollouts of group 0 swap outcomes: the third one's prior is what it was.
    swapped = list(rollouts)
    swapped[1] = with_outcome(rollouts[1], rollouts[2].score.outcome)
    swapped[2] = with_outcome(rollouts[2], rollouts[1].score.outcome)
    assert swapped[1].score.outcome != rollouts[1].score.outcome
    after = values_by(swapped, kind)
    assert values(after)[0] == values(before)[0]
    assert values(after)[3:] != values(before)[3:]
    # Nor does a rollout's own outcome move its value.
    own = [with_outcome(rollouts[0], 1 - rollouts[0].score.outcome), *rollouts[1:]]
    assert values(values_by(own, kind))[0] == values(before)[0]
    assert values(values_by(own, kind))[1] != values(before)[1]


def test_a_step_that_uncovers_nothing_changes_the_value_by_its_position_alone(
    groups: list[list[Rollout]], rollouts: list[Rollout], question: Question
) -> None:
    with Engine() as engine:
        calls: list[list[ToolCall | str]] = [
            [ORDER, GARBAGE, COUNT, COUNT, WRONG],
            [CUSTOMER, RIGHT],
        ]
        extra = played(question, engine, *calls, group=4)
    assert num_seen(extra[0].transcript.episode)[1] == [1, 2, 2, 2, 2]  # a key, then nothing
    found = values(values_by([*rollouts, *extra], "gold"))[len(rollouts)]
    steps = np.diff(found[1:])
    assert_allclose(steps, steps[0], atol=1e-12)
    assert not np.isclose(found[1] - found[0], steps[0])


@pytest.mark.parametrize("kind", KINDS)
def test_with_fewer_than_three_other_groups_the_value_is_the_prior(
    rollouts: list[Rollout], kind: ValueKind
) -> None:
    made = values_by(rollouts[:9], kind)
    assert [item is not None and item.is_fitted for item in made] == [False] * 9
    priors = prior_values([rollout.score.outcome for rollout in rollouts[3:6]])
    assert values(made)[3:6] == [[priors[0]] * 2, [priors[1]] * 5, [priors[2]] * 2]
    assert values_by([], kind) == []


def test_a_gold_query_without_facts_has_no_fitted_value_and_helps_no_other(
    rollouts: list[Rollout], question: Question
) -> None:
    asked = dataclasses.replace(question, gold_sql="SELECT 1")
    with Engine() as engine:
        extra = played(asked, engine, [COUNT, WRONG], [RIGHT], group=4)
    made = values_by([*rollouts, *extra], "gold")
    assert values(made[:12]) == values(values_by(rollouts, "gold"))
    assert [item is not None and item.is_fitted for item in made] == [True] * 12 + [False] * 2
    assert values(made)[12:] == [[0.25, 0.25], [0.75]]
    fitted = values_by([*rollouts, *extra], "history")[-1]
    assert fitted is not None
    assert fitted.is_fitted


def test_rollouts_that_do_not_count_have_no_value_and_move_none(rollouts: list[Rollout]) -> None:
    uncounted = [
        dataclasses.replace(item, score=dataclasses.replace(item.score, counted=False))
        for item in rollouts[:3]
    ]
    made = values_by([*rollouts[3:], *uncounted], "gold")
    assert made[-3:] == [None] * 3
    assert values(made) == values(values_by(rollouts[3:], "gold"))


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_gather_have_the_values_of_one_process(
    rollouts: list[Rollout], kind: ValueKind
) -> None:
    # Each process numbers its groups from 0.
    parts = [rollouts[:6], [dataclasses.replace(r, group=r.group - 2) for r in rollouts[6:]]]
    every: list[Any] = []

    def sent(items: list[Any]) -> list[Any]:
        every.extend(items)
        return items

    for rank, part in enumerate(parts):
        values_by(part, kind, rank=rank, gather=sent)
    found = [
        value
        for rank, part in enumerate(parts)
        for value in values(values_by(part, kind, rank=rank, gather=lambda items: every))
    ]
    for mine, expected in zip(found, values(values_by(rollouts, kind)), strict=True):
        assert_allclose(mine, expected, atol=1e-12)


def advantages(rollouts: Sequence[Rollout], credit: CreditConfig, kind: ValueKind) -> torch.Tensor:
    """Return all advantages of rollouts, as the trainer makes them."""
    made = credited(
        rollouts,
        credit,
        drop_uniform_groups=False,
        impl="reference",
        values_of=partial(values_by, kind=kind),
    )
    assert all(item.step_value is not None for item in made)
    return torch.cat([item.step_advantage for item in made if item.step_advantage is not None])


def by_hand(rollouts: Sequence[Rollout], credit: CreditConfig, kind: ValueKind) -> torch.Tensor:
    """Return all advantages in one call."""
    counts = [len(item.score.process) for item in rollouts]
    first, spans = 0, []
    for count in counts:
        spans.append([(first + 2 * n, first + 2 * n + 1) for n in range(count)])
        first += 2 * count
    return reference.step_advantage(
        StepBatch.from_spans(spans, [item.group for item in rollouts], num_tokens=first),
        torch.tensor([reward for item in rollouts for reward in item.score.process]),
        torch.tensor([item.score.outcome for item in rollouts]),
        step_value=torch.cat([v.value for v in values_by(rollouts, kind) if v is not None]),
        credit=credit,
    )


VALUE = VALUE_ALONE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "credit", [VALUE, dataclasses.replace(VALUE, step_weight=0.5, rollout_weight=0.5)]
)
def test_credit_takes_the_values_of_the_steps(
    rollouts: list[Rollout], kind: ValueKind, credit: CreditConfig
) -> None:
    torch.testing.assert_close(advantages(rollouts, credit, kind), by_hand(rollouts, credit, kind))
    outcome_only = dataclasses.replace(credit, gae_lambda=1.0)
    torch.testing.assert_close(
        advantages(rollouts[:9], credit, kind), by_hand(rollouts[:9], outcome_only, kind)
    )


def test_a_group_without_a_fit_gets_lambda_one_beside_others_that_keep_theirs(
    rollouts: list[Rollout], question: Question
) -> None:
    asked = dataclasses.replace(question, gold_sql="SELECT 1")
    with Engine() as engine:
        extra = played(asked, engine, [COUNT, CUSTOMER, WRONG], [LIST, RIGHT], group=4)
    # In the middle, to see that every rollout gets its own.
    mixed = [*rollouts[:3], *extra, *rollouts[3:]]
    found = advantages(mixed, VALUE, "gold").split([len(r.score.process) for r in mixed])
    outcome_only = dataclasses.replace(VALUE, gae_lambda=1.0)
    expected = by_hand(mixed, VALUE, "gold").split([len(r.score.process) for r in mixed])
    alone = by_hand(mixed, outcome_only, "gold").split([len(r.score.process) for r in mixed])
    for place, item in enumerate(mixed):
        torch.testing.assert_close(found[place], (alone if item.group == 4 else expected)[place])
    std = torch.tensor([1.0, 0.0]).std() + VALUE.epsilon
    assert mixed[3].score.outcome == 1.0  # m is 1/4, and every step is flawless
    torch.testing.assert_close(found[3], ((1 - 0.25) / std).expand(3))


def test_scope_value_without_values_is_refused(rollouts: list[Rollout]) -> None:
    with pytest.raises(InputError, match="values_of is not given"):
        credited(rollouts, VALUE, drop_uniform_groups=False)


def test_values_stand_in_the_records(rollouts: list[Rollout]) -> None:
    made = credited(
        rollouts,
        VALUE,
        drop_uniform_groups=True,
        impl="reference",
        values_of=partial(values_by, kind="gold"),
    )
    for item, expected in zip(made, values(values_by(rollouts, "gold")), strict=True):
        shown = [step["value"] for step in item.record(0)["steps"]]
        assert shown == pytest.approx(expected, abs=1e-6)
    assert all("value" not in step for step in rollouts[0].record(0)["steps"])


def test_calibration_by_hand(rollouts: list[Rollout]) -> None:
    right, wrong = with_outcome(rollouts[0], 1.0), with_outcome(rollouts[1], 0.0)
    judged = [
        dataclasses.replace(right, step_value=torch.tensor([0.5, 1.0], dtype=torch.float64)),
        dataclasses.replace(wrong, step_value=torch.tensor([0.55], dtype=torch.float64)),
        rollouts[2],
    ]
    found = calibration(judged)
    assert found["value_brier"] == pytest.approx((0.25 + 0.0 + 0.3025) / 3)
    assert found["value_brier_by_step"] == pytest.approx([(0.25 + 0.3025) / 2, 0.0])
    assert found["value_reliability"] == [
        {"from": 0.5, "steps": 2, "value": pytest.approx(0.525), "outcome": 0.5},
        {"from": 0.9, "steps": 1, "value": 1.0, "outcome": 1.0},
    ]
    together = calibration(judged[:1], gather=lambda items: [*items, *items])
    assert together["value_reliability"][0]["steps"] == 2
    assert calibration([]) == {
        "value_brier": None,
        "value_brier_by_step": [],
        "value_reliability": [],
    }

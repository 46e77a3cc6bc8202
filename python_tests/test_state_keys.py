"""State keys: equal where two rollouts know the same, whatever way they came to know it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from finestep_fast import CreditConfig, StepBatch, reference
from finestep_fast.env.calls import ToolCall
from finestep_fast.env.episode import LAST_STEP
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.summary import state_share
from support.databases import written
from support.played import BARE, GARBAGE, looks, played, runs, submits

GOLD = "SELECT name FROM customer WHERE city = 'London'"
LIST = ToolCall("list_tables", {})
SEARCH = ToolCall("search_values", {"text": "lon"})
CUSTOMER, LONDONER = looks("customer"), looks("londoner")
COUNT = runs("SELECT count(*) FROM customer")
AGAIN = runs("select COUNT( * ) from Customer -- again")
FAILS = runs("SELECT nothing FROM nowhere")
EMPTY, CUSTOMER_AND_COUNT = -1970711489451281740, -5620498806739418615
States = Callable[..., tuple[int, ...]]


@pytest.fixture
def question(tmp_path: Path) -> Question:
    return Question("1", "Who lives in London?", GOLD, "shop", written(tmp_path / "shop.sqlite"))


@pytest.fixture
def states(engine: Engine, question: Question) -> States:
    def states(*calls: ToolCall | str) -> tuple[int, ...]:
        (rollout,) = played(question, engine, calls)
        return rollout.score.states

    return states


def last(states: States, calls: Sequence[ToolCall | str]) -> int:
    """Return the key of the step after these calls."""
    return states(*calls, submits(GOLD))[-1]


def test_every_first_step_has_one_key_the_same_in_every_process(
    states: States, engine: Engine, question: Question
) -> None:
    other = dataclasses.replace(question, question_id="2", gold_sql="SELECT 1")
    (elsewhere,) = played(other, engine, [submits("SELECT 2")])
    keys = {states(GARBAGE)[0], states(CUSTOMER)[0], states(submits(GOLD))[0]}
    assert keys == {elsewhere.score.states[0]} == {EMPTY}
    assert last(states, [CUSTOMER, COUNT]) == CUSTOMER_AND_COUNT


def test_neither_the_order_of_calls_nor_a_repeat_changes_a_key(states: States) -> None:
    known = last(states, [CUSTOMER, COUNT, SEARCH])
    assert last(states, [SEARCH, CUSTOMER, COUNT]) == known
    assert last(states, [CUSTOMER, CUSTOMER, SEARCH, COUNT, SEARCH]) == known
    assert last(states, [CUSTOMER, AGAIN, SEARCH]) == known
    assert last(states, [looks('"CUSTOMER"'), COUNT, SEARCH]) == known


def test_calls_that_fail_and_malformed_steps_change_no_key(states: States) -> None:
    keys = states(CUSTOMER, FAILS, GARBAGE, looks("nothing"), COUNT, submits(GOLD))
    assert keys[1] == keys[2] == keys[3] == keys[4]
    assert len(set(keys)) == 3
    assert keys[5] == CUSTOMER_AND_COUNT


def test_what_a_rollout_knows_more_makes_another_key(states: States) -> None:
    sets: tuple[list[ToolCall], ...] = (
        [],
        [CUSTOMER],
        [LONDONER],
        [LIST],
        [COUNT],
        [CUSTOMER, COUNT],
        [LIST, CUSTOMER, COUNT],
    )
    keys = {last(states, calls) for calls in sets}
    assert len(keys) == len(sets)
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_the_same_query_with_another_result_makes_another_key(
    states: States, tmp_path: Path, engine: Engine, question: Question
) -> None:
    script = "CREATE TABLE customer (name TEXT, city TEXT); INSERT INTO customer VALUES ('A', 'B')"
    other = dataclasses.replace(question, database=written(tmp_path / "other.sqlite", script))
    (rollout,) = played(other, engine, [COUNT, submits(GOLD)])
    assert rollout.score.states[1] != last(states, [COUNT])


def test_the_note_before_the_last_step_is_no_knowledge(
    engine: Engine, question: Question, states: States
) -> None:
    env = dataclasses.replace(BARE, max_steps=2)
    (short,) = played(question, engine, [CUSTOMER, submits(GOLD)], env=env)
    assert short.transcript.episode.steps[0].observation.endswith(LAST_STEP)
    assert short.score.states[1] == last(states, [CUSTOMER])


def test_a_record_names_the_state_of_each_step(engine: Engine, question: Question) -> None:
    (rollout,) = played(question, engine, [CUSTOMER, submits(GOLD)])
    shown = [step["state"] for step in rollout.record(0)["steps"]]
    assert [len(word) for word in shown] == [16, 16]
    keys = [int(word, 16) for word in shown]
    assert [key - 2**64 if key >= 2**63 else key for key in keys] == list(rollout.score.states)


def test_state_share_counts_the_steps_whose_state_another_rollout_of_the_group_visited(
    engine: Engine, question: Question
) -> None:
    end = submits(GOLD)
    first = played(
        question, engine, [CUSTOMER, COUNT, end], [COUNT, CUSTOMER, end], [CUSTOMER, end]
    )
    alone = played(question, engine, [CUSTOMER, CUSTOMER, CUSTOMER, end], group=1)
    uncounted = [
        dataclasses.replace(rollout, score=dataclasses.replace(rollout.score, counted=False))
        for rollout in played(question, engine, [CUSTOMER, end], group=1)
    ]
    # Group 0: at position 1 two of three, at position 2 both. Group 1 has nobody to share with.
    assert state_share(first) == [1.0, 2 / 3, 1.0]
    assert state_share([*first, *alone, *uncounted]) == [3 / 4, 2 / 4, 2 / 3, 0.0]
    assert state_share(first, gather=lambda items: items + items) == state_share(first)
    assert state_share([]) == []


def test_credit_compares_by_these_keys(engine: Engine, question: Question) -> None:
    rollouts = played(
        question,
        engine,
        [CUSTOMER, COUNT, submits(GOLD)],
        [COUNT, CUSTOMER, submits("SELECT 1")],
        [CUSTOMER, submits(GOLD)],
    )
    credit = CreditConfig.preset("finestep_state")
    made = credited(rollouts, credit, drop_uniform_groups=False, impl="reference")
    spans = [[(0, 1), (2, 3), (4, 5)], [(6, 7), (8, 9), (10, 11)], [(12, 13), (14, 15)]]
    expected = reference.step_advantage(
        StepBatch.from_spans(spans, [0, 0, 0], num_tokens=16),
        torch.tensor([value for rollout in rollouts for value in rollout.score.process]),
        torch.tensor([1.0, 0.0, 1.0]),
        step_state=torch.tensor([0, 1, 3, 0, 2, 3, 0, 1]),
        credit=credit,
    )
    found = [rollout.step_advantage for rollout in made if rollout.step_advantage is not None]
    torch.testing.assert_close(torch.cat(found), expected)

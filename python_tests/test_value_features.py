"""What a value is fitted to: the features of states, by hand."""

from __future__ import annotations

import dataclasses

import pytest
from numpy.testing import assert_allclose

from finestep_fast.env.calls import ToolCall
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine
from finestep_fast.train.rollout import value
from finestep_fast.train.rollout.coverage import num_seen
from finestep_fast.train.rollout.value import gold_features, history_features, prior_values
from support.databases import written
from support.played import GARBAGE, looks, played, runs, submits

GOLD = "SELECT name FROM customer WHERE city = 'London'"
LIST, CUSTOMER = ToolCall("list_tables", {}), looks("customer")
COUNT, RIGHT, WRONG = runs("SELECT count(*) FROM customer"), submits(GOLD), submits("SELECT 1")
MAX_STEPS = 5


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    database = written(tmp_path_factory.mktemp("values") / "shop.sqlite")
    return Question("1", "Who lives in London?", GOLD, "shop", database)


def test_the_features_of_a_small_episode_by_hand(question: Question) -> None:
    # Facts: customer, city, name, 'London'; the question shows the last, the list the table.
    with Engine() as engine:
        first, sound, repeats = played(
            question,
            engine,
            [LIST, CUSTOMER, RIGHT],
            [GARBAGE, LIST, CUSTOMER, COUNT, RIGHT],
            [CUSTOMER, CUSTOMER, RIGHT],
        )
    assert num_seen(first.transcript.episode) == (4, [1, 2, 4])
    assert_allclose(
        gold_features(0.5, 4, [1, 2, 4, 4], [False, False, True, False], MAX_STEPS),
        [
            [1, 0.5, 0.25, 1, 0.0625, 0.125, 0, 0, 0],
            [1, 0.5, 0.5, 2 / 3, 0.25, 0.25, 0, 0.2, 0],
            [1, 0.5, 1, 0, 1, 0.5, 1, 0.4, 0],
            [1, 0.5, 1, 0, 1, 0.5, 1, 0.6, 1],
        ],
    )
    # A malformed step, three sound ones; then a repeat in another rollout.
    assert_allclose(
        history_features(sound, 0.5, MAX_STEPS),
        [
            [1, 0.5, 0, 0, 0, 0, 0],
            [1, 0.5, 0, 0.5, 0, 0.2, 0],
            [1, 0.5, 1 / 3, 0.5, 0, 0.4, 1 / 6],
            [1, 0.5, 2 / 3, 0.5, 0, 0.6, 1 / 3],
            [1, 0.5, 1, 0.5, 0, 0.8, 0.5],
        ],
    )
    assert history_features(repeats, 0.5, MAX_STEPS)[2].tolist()[2:5] == [1 / 3, 0, 0.5]


def test_queries_on_the_way_are_compared_with_the_gold_query_where_asked(
    question: Question,
) -> None:
    found_it = "SELECT name FROM customer WHERE city LIKE 'lond%'"
    calls: list[ToolCall | str]
    calls = [LIST, COUNT, runs(found_it), runs("SELECT nothing FROM customer"), GARBAGE, WRONG]
    with Engine() as engine:
        (asked,) = played(question, engine, calls, find_answers=True)
        (not_asked,) = played(question, engine, calls)
    assert asked.score.found == (False, False, True, False, False, False)
    assert not_asked.score == dataclasses.replace(asked.score, found=())
    (rows,) = value._features([asked], "gold", MAX_STEPS) or []
    assert rows[:, 8].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_prior_of_a_rollout_is_what_the_others_of_its_group_say() -> None:
    assert prior_values([1.0, 0.0, 0.0, 1.0]) == [1.5 / 4, 2.5 / 4, 2.5 / 4, 1.5 / 4]
    assert prior_values([1.0]) == [0.5]

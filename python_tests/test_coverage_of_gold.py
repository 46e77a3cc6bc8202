"""What a rollout has been shown of what its gold query needs, step by step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from finestep_fast.env.calls import ToolCall
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine
from finestep_fast.sql.schema import database_schema
from finestep_fast.train.rollout.coverage import Fact, gold_facts, num_seen, words
from support.databases import written
from support.played import BARE, GARBAGE, episode_of, looks, runs, submits

GOLD = "SELECT name FROM customer WHERE city = 'London'"
JOIN = (
    'SELECT c.name FROM customer c JOIN "Order Item" o ON o.customer = c.id '
    "WHERE o.\"unit price\" > 2 AND c.name LIKE 'O%' LIMIT 7"
)
LIST = ToolCall("list_tables", {})


def search(text: str, **arguments: str) -> ToolCall:
    """Return a search for values."""
    return ToolCall("search_values", {"text": text, **arguments})


@pytest.fixture
def question(tmp_path: Path) -> Question:
    text = "Which customer names and which city?"  # the words of names show no name
    return Question("1", text, GOLD, "shop", written(tmp_path / "shop.sqlite"))


def test_the_facts_of_a_query_are_its_tables_columns_and_literals(question: Question) -> None:
    schema = database_schema(question.database)
    assert gold_facts(GOLD, schema) == (
        Fact("table", "customer"),
        Fact("column", "customer", "city"),
        Fact("column", "customer", "name"),
        Fact("literal", "london"),
    )
    assert gold_facts(JOIN, schema) == (
        Fact("table", "customer"),
        Fact("table", "order item"),
        Fact("column", "customer", "id"),
        Fact("column", "customer", "name"),
        Fact("column", "order item", "customer"),
        Fact("column", "order item", "unit price"),
        Fact("literal", "2"),
        Fact("literal", "o"),
    )
    assert gold_facts("SELECT 1", schema) == gold_facts("no query", schema) == ()
    assert gold_facts("SELECT a FROM nowhere WHERE name = '--'", schema) == ()


def seen(
    question: Question,
    engine: Engine,
    *calls: ToolCall | str,
    gold: str = GOLD,
    env: EnvConfig = BARE,
) -> list[int]:
    """Return how many facts were seen before each of these calls and a final answer."""
    asked = dataclasses.replace(question, gold_sql=gold)
    total, counts = num_seen(episode_of(asked, engine, [*calls, submits("SELECT 1")], env))
    assert max(counts) <= total
    return counts


def test_each_look_shows_what_it_shows(question: Question, engine: Engine) -> None:
    customer, order = looks("customer"), looks("Order Item")
    london = search("london")
    assert seen(question, engine, LIST, customer, london) == [0, 1, 3, 4]
    assert seen(question, engine, customer, LIST, london) == [0, 3, 3, 4]
    # A search shows the place and the value: customer, city, 'London'; and again for the name.
    assert seen(question, engine, london, customer) == [0, 3, 4]
    assert seen(question, engine, search("ada"), search("zzz")) == [0, 2, 2]
    # Another table shows nothing of it, except where its keys point.
    assert seen(question, engine, looks("londoner")) == [0, 0]
    assert seen(question, engine, order) == [0, 1]
    assert seen(question, engine, order, LIST, customer, gold=JOIN) == [0, 5, 5, 6]


def test_a_query_that_ran_shows_what_it_names_and_what_its_result_shows(
    question: Question, engine: Engine
) -> None:
    assert seen(question, engine, runs("SELECT name FROM customer")) == [0, 2]
    assert seen(question, engine, runs("SELECT * FROM customer")) == [0, 4]
    assert seen(question, engine, runs("SELECT * FROM customer WHERE id = 2")) == [0, 3]
    assert seen(question, engine, runs("SELECT count(*) FROM customer WHERE city = 'X'")) == [0, 2]
    assert seen(question, engine, runs("SELECT sql FROM sqlite_master")) == [0, 4]  # 'London' too
    assert seen(question, engine, runs("SELECT name FROM sqlite_master")) == [0, 1]


def test_what_failed_shows_nothing(question: Question, engine: Engine) -> None:
    failing = "SELECT name, city, 'London', nothing FROM customer"
    calls: list[ToolCall | str] = [
        runs(failing),
        looks("customers"),
        search(""),
        GARBAGE,
        '<tool_call>{"name": "x"}',
    ]
    assert seen(question, engine, *calls) == [0] * 6


def test_the_prompt_shows_its_schema_and_the_literals_of_the_question(
    question: Question, engine: Engine
) -> None:
    full = dataclasses.replace(BARE, schema_in_prompt="full")
    tables = dataclasses.replace(BARE, schema_in_prompt="tables")
    assert seen(question, engine, env=tables) == [1]
    assert seen(question, engine, env=full) == [3]
    asked = dataclasses.replace(question, text="Who lives in LONDON?")
    assert seen(asked, engine) == [1]
    hinted = dataclasses.replace(question, evidence="the city is 'London'")
    assert seen(hinted, engine) == [1]
    assert seen(hinted, engine, env=tables) == [2]
    cut = dataclasses.replace(full, max_prompt_chars=68)
    assert seen(question, engine, env=cut) == [1]


@pytest.mark.parametrize(
    ("literal", "text", "is_shown"),
    [
        ("New York", "in new-york, 2020", True),
        ("New York", "new, in york", False),
        ("York", "Yorkshire", False),
        ("O'Neil", "'O''Neil'", True),
        ("%mid%", "a mid-day", True),
        ("2010-05-06", "on 2010-05-06 at", True),
        ("5", "5.0 and", True),
        ("5", "2.5 and 55", False),
        ("2.5", "2.50 | 2.5", True),
        ("1000", "1e3", False),
        ("1", "t1 x_1", False),
        ("F1", "the f1 race", True),
    ],
)
def test_a_literal_is_seen_where_its_words_stand(literal: str, text: str, is_shown: bool) -> None:
    assert (f" {words(literal)} " in f" {words(text)} ") == is_shown

"""Episodes: what an agent is shown, what each tool answers, how an episode ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode, EpisodeStatus, Turn
from finestep_fast.env.question import Question
from finestep_fast.env.tools import TOOL_SCHEMAS
from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Status
from support.databases import written
from support.episodes import use

Start = Callable[..., Episode]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(workers=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    path = written(tmp_path_factory.mktemp("shop") / "shop.sqlite")
    return Question("q1", "Who lives in London?", "SELECT 1", "shop", path, evidence="a city")


@pytest.fixture(scope="module")
def start(engine: Engine, question: Question) -> Start:
    def start(**settings: Any) -> Episode:
        return Episode(question, engine, EnvConfig(**settings))

    return start


def test_the_first_messages_hold_question_hint_and_schema(start: Start) -> None:
    system, user = start().messages()
    assert system["role"] == "system"
    assert "submit" in system["content"]
    assert user == {
        "role": "user",
        "content": (
            "Who lives in London?\nHint: a city\nTables:\n"
            "customer(id INTEGER PK, name TEXT, city TEXT, joined DATE)\n"
            '"Order Item"("Order" INTEGER PK, customer INTEGER -> customer.id, "unit price" REAL, '
            "note BLOB)\nlondoner(name TEXT)"
        ),
    }


def test_the_schema_may_be_shortened_or_left_out(start: Start) -> None:
    tables = start(schema_in_prompt="tables").messages()[1]["content"]
    assert tables.endswith('\nTables: customer, "Order Item", londoner')
    assert "Tables" not in start(schema_in_prompt="none").messages()[1]["content"]
    cut = start(max_prompt_chars=90).messages()[1]["content"]
    assert "more characters)" in cut
    assert len(cut) < 150


def test_the_system_message_is_a_setting(start: Start) -> None:
    assert start(system_prompt="Be brief.").messages()[0]["content"] == "Be brief."
    assert [m["role"] for m in start(system_prompt="").messages()] == ["user"]


def test_tools_answer_line_by_line(start: Start) -> None:
    episode = start(max_steps=20)
    assert use(episode, "list_tables") == 'customer\n"Order Item"\nlondoner'
    assert use(episode, "describe_table", table="Order Item") == (
        '"Order" INTEGER PK\ncustomer INTEGER -> customer.id\n"unit price" REAL\nnote BLOB'
    )
    assert use(episode, "describe_table", table='"order item"').startswith('"Order" INTEGER')
    assert use(episode, "search_values", text="LON") == ("customer.city: 'London'")
    assert use(episode, "search_values", text="'") == "customer.name: 'O''Neil'"
    assert use(episode, "execute_sql", sql="SELECT name, city AS c FROM customer WHERE id > 2") == (
        "name | c\nCy | London\nO'Neil | NULL\n(2 rows)"
    )
    assert use(episode, "execute_sql", sql="SELECT note FROM 'Order Item' WHERE \"Order\" = 2") == (
        "note\nx'00ff'\n(1 row)"
    )
    assert use(episode, "execute_sql", sql="SELECT 1 WHERE 0") == "1\n(0 rows)"
    assert [step.status for step in episode.steps] == [Status.OK] * len(episode.steps)
    assert not episode.done


def test_what_goes_wrong_in_a_tool_stands_in_its_answer(start: Start) -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT max(x) FROM c"
    episode = start(max_steps=20, query_timeout_s=0.05)
    calls = {
        "error: no such table: orders": ("describe_table", {"table": "orders"}),
        "error: no such table: order": ("search_values", {"text": "x", "table": "order"}),
        "error: no such column: nam": ("search_values", {"text": "x", "column": "nam"}),
        "error: text is empty": ("search_values", {"text": "   "}),
        "error: no such column: ag": ("execute_sql", {"sql": "SELECT ag FROM customer"}),
        "error: the query holds no statement": ("execute_sql", {"sql": " "}),
        "error: DROP TABLE is not allowed: only a query that reads tables is": (
            "execute_sql",
            {"sql": "DROP TABLE customer"},
        ),
        "error: stopped after 0.05 s": ("execute_sql", {"sql": endless}),
    }
    answers = [use(episode, name, **arguments) for name, arguments in calls.values()]
    assert answers == list(calls)
    assert [step.status for step in episode.steps] == [
        *[Status.ERROR] * 6,
        Status.DENIED,
        Status.TIMEOUT,
    ]
    assert not episode.done


def test_an_agent_may_ask_sqlite_for_the_schema(start: Start) -> None:
    episode = start(max_steps=20)
    rows = "cid | name | type | notnull | dflt_value | pk\n0 | name | TEXT | 0 | NULL | 0\n(1 row)"
    assert use(episode, "execute_sql", sql="PRAGMA table_info(londoner)") == rows
    query = "SELECT name FROM pragma_table_info('londoner')"
    assert use(episode, "execute_sql", sql=query) == "name\nname\n(1 row)"
    plan = use(episode, "execute_sql", sql="EXPLAIN QUERY PLAN SELECT * FROM customer")
    assert plan.startswith("id | parent | notused | detail\n")
    assert plan.endswith(" | SCAN customer\n(1 row)")
    assert {step.status for step in episode.steps} == {Status.OK}


def test_submit_ends_the_episode_with_its_query(start: Start) -> None:
    episode = start()
    turn = episode.step(render_call(ToolCall("submit", {"sql": "SELECT 2"})))
    assert turn.done
    assert episode.status is EpisodeStatus.SUBMITTED
    assert episode.final_sql == "SELECT 2"


def test_the_last_step_is_announced_and_then_the_episode_ends(start: Start) -> None:
    episode = start(max_steps=3)
    turns = [episode.step(render_call(ToolCall("list_tables", {}))) for _ in range(3)]
    assert [turn.done for turn in turns] == [False, False, True]
    assert ["last step" in turn.observation for turn in turns] == [False, True, False]
    assert episode.status is EpisodeStatus.OUT_OF_STEPS
    assert episode.final_sql is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I think it is Ada.", "no tool call"),
        (
            render_call(ToolCall("drop_database", {})),
            "no tool 'drop_database'; the tools are list_",
        ),
        (render_call(ToolCall("submit", {})), "submit needs the argument 'sql'"),
        (render_call(ToolCall("list_tables", {"x": ""})), "list_tables has no argument 'x'"),
        ('<tool_call>{"name": "submit", "arguments": {"sql": 1}}</tool_call>', "'sql' is not text"),
    ],
)
def test_a_malformed_step_is_answered_and_too_many_end_the_episode(
    start: Start, text: str, reason: str
) -> None:
    episode = start(max_malformed=2)
    first, second = episode.step(text), episode.step(text)
    assert first.observation.startswith("error: ")
    assert reason in first.observation
    assert (first.done, second.done) == (False, True)
    assert episode.status is EpisodeStatus.TOO_MALFORMED
    assert [(step.call, reason in step.malformed) for step in episode.steps] == [(None, True)] * 2


def test_an_observation_is_cut_to_its_budget_and_says_so(start: Start) -> None:
    rows = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < {}) SELECT x FROM c"
    )
    episode = start(max_steps=9, max_observation_chars=120, max_rows=60, max_value_chars=20)
    shown = use(episode, "execute_sql", sql=rows.format(50))
    assert shown.startswith("x\n1\n2\n")
    assert shown.endswith(" of 50 rows shown)")
    assert use(episode, "execute_sql", sql=rows.format(70)).endswith("rows shown; more exist)")
    assert use(episode, "execute_sql", sql="SELECT hex(zeroblob(500)) v, 1") == (
        "v | 1\n00000000000000000000... | 1\n(1 row)"
    )
    assert use(episode, "execute_sql", sql="SELECT 'a\nb\r'") == "'a\\nb\\r'\na\\nb\\r\n(1 row)"
    many = ", ".join(f"{i} AS long_name_of_column_{i}" for i in range(50))
    assert "more characters)" in use(episode, "execute_sql", sql=f"SELECT {many}")
    assert all(len(step.observation) <= 120 for step in episode.steps)


@pytest.mark.parametrize("budget", [80, 81, 100, 200])
def test_no_observation_exceeds_its_budget(start: Start, budget: int) -> None:
    calls = [
        ToolCall("list_tables", {}),
        ToolCall("describe_table", {"table": "Order Item"}),
        ToolCall("describe_table", {"table": "x" * 500}),
        ToolCall("search_values", {"text": "o"}),
        ToolCall("execute_sql", {"sql": "SELECT * FROM customer, customer b, customer c"}),
        ToolCall("execute_sql", {"sql": f"SELECT {'x' * 900}"}),
        ToolCall("y" * 500, {}),
    ]
    for call in calls:
        episode = start(max_observation_chars=budget, max_steps=2, max_rows=1000)
        assert len(episode.step(render_call(call)).observation) <= budget


def test_text_that_is_no_utf8_can_be_read_and_encoded(tmp_path: Path, engine: Engine) -> None:
    script = "CREATE TABLE \"t\"(a TEXT); INSERT INTO t VALUES (CAST(x'4cff' AS TEXT))"
    path = written(tmp_path / "bytes.sqlite", script)
    episode = Episode(Question("1", "?", "SELECT 1", "b", path), engine, EnvConfig())
    shown = use(episode, "execute_sql", sql="SELECT a FROM t")
    assert shown.encode() == b"a\nL?\n(1 row)"
    assert use(episode, "search_values", text="L").startswith("t.a: 'L?'")
    lone = (
        '<tool_call>{"name": "execute_sql", "arguments": {"sql": "SELECT \'\\ud800\'"}}</tool_call>'
    )
    assert episode.step(lone).observation == (
        "error: the query is no valid Unicode: surrogates not allowed"
    )


@pytest.mark.parametrize(
    "text", ["0.1 + 0.2", "1e21", "1e300 * 10", "-1e999", "1e999", "2.0", "-7"]
)
def test_a_number_is_shown_so_that_a_query_finds_it(start: Start, text: str) -> None:
    _, shown, _ = use(start(), "execute_sql", sql=f"SELECT {text}").splitlines()
    same = use(start(), "execute_sql", sql=f"SELECT {text} = {shown} AS same")
    assert same == "same\n1\n(1 row)"


def test_a_missing_database_fails_the_episode_and_nothing_else(
    tmp_path: Path, engine: Engine
) -> None:
    question = Question("1", "?", "SELECT 1", "gone", tmp_path / "gone.sqlite")
    episode = Episode(question, engine, EnvConfig())
    assert episode.done
    assert episode.status is EpisodeStatus.FAILED
    assert "No such file" in episode.message
    assert episode.messages()[1]["content"] == "?"


def test_a_database_that_vanishes_fails_the_episode(tmp_path: Path, engine: Engine) -> None:
    path = written(tmp_path / "d.sqlite")
    episode = Episode(Question("1", "?", "SELECT 1", "d", path), engine, EnvConfig())
    os.remove(path)
    turn = episode.step(render_call(ToolCall("execute_sql", {"sql": "SELECT 1"})))
    assert turn.done
    assert episode.status is EpisodeStatus.FAILED
    assert "No such file" in episode.message


def test_an_episode_can_be_ended_from_outside_once(start: Start) -> None:
    episode = start()
    episode.end(EpisodeStatus.OUT_OF_TOKENS)
    episode.end(EpisodeStatus.FAILED, "too late")
    assert (episode.status, episode.message) == (EpisodeStatus.OUT_OF_TOKENS, "")
    with pytest.raises(InputError, match="the episode is out_of_tokens"):
        episode.step("more")


NAMES = st.sampled_from([schema["function"]["name"] for schema in TOOL_SCHEMAS])
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["customer", '"Order Item"', "SELECT * FROM customer", "SELECT", "'", "%", "\0", "\ud800"]
    ),
)
CALLS = st.builds(
    ToolCall,
    NAMES,
    st.dictionaries(st.sampled_from(["sql", "table", "text", "column"]), TEXTS, max_size=3),
)


@given(st.lists(st.one_of(CALLS.map(render_call), st.text(max_size=20)), min_size=1, max_size=6))
def test_no_text_raises(start: Start, texts: list[str]) -> None:
    episode = start(max_steps=4, max_malformed=3)
    for text in texts:
        turn = episode.step(text)
        assert isinstance(turn, Turn)
        turn.observation.encode()
        if turn.done:
            break
    assert episode.done == (episode.status is not EpisodeStatus.RUNNING)


def test_episodes_may_step_in_many_threads(start: Start) -> None:
    def play(seed: int) -> list[str]:
        episode = start(max_steps=30)
        return [
            use(episode, "execute_sql", sql=f"SELECT {seed}, {i}, count(*) FROM customer")
            for i in range(20)
        ]

    with ThreadPoolExecutor(8) as pool:
        for seed, observations in enumerate(pool.map(play, range(16))):
            assert [text.split("\n")[1] for text in observations] == [
                f"{seed} | {i} | 4" for i in range(20)
            ]


def test_tool_schemas_name_every_tool_with_its_arguments() -> None:
    described = {
        schema["function"]["name"]: (
            list(schema["function"]["parameters"]["properties"]),
            schema["function"]["parameters"]["required"],
        )
        for schema in TOOL_SCHEMAS
    }
    assert described == {
        "list_tables": ([], []),
        "describe_table": (["table"], ["table"]),
        "search_values": (["text", "table", "column"], ["text"]),
        "execute_sql": (["sql"], ["sql"]),
        "submit": (["sql"], ["sql"]),
    }


def test_settings_out_of_range_are_refused() -> None:
    for change, message in (
        ({"max_steps": 0}, "max_steps is 0; it must be an integer >= 1"),
        ({"max_steps": 2.5}, "max_steps is 2.5; it must be an integer >= 1"),
        ({"query_timeout_s": float("inf")}, "query_timeout_s is inf"),
        ({"describe_tools": 1}, "describe_tools is 1; it must be true or false"),
        ({"schema_in_prompt": "some"}, "schema_in_prompt is 'some'; it must be 'none', "),
        ({"max_observation_chars": 10}, "max_observation_chars is 10; it must be an integer >= 80"),
    ):
        with pytest.raises(InputError, match=message):
            replace(EnvConfig(), **change)

"""What a step earns: the validators alone, and on rollouts written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import RolloutScore, score_episodes
from finestep_fast.errors import InputError
from finestep_fast.rewards import (
    VALIDATORS,
    CallKey,
    RewardConfig,
    StepFacts,
    executes,
    grounded,
    novel,
    process_reward,
    validators,
    well_formed,
)
from finestep_fast.sql import Engine
from support.databases import written

GOLD = "SELECT name FROM customer WHERE city = 'London'"
Played = Callable[..., RolloutScore]
A, B = CallKey("describe_table", "a"), CallKey("describe_table", "b")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    path = written(tmp_path_factory.mktemp("shop") / "shop.sqlite")
    question = Question("1", "Who lives in London?", GOLD, "shop", path)
    with Engine(workers=1) as engine:

        def play(*turns: str | tuple[str, dict[str, str]], **rewards: float | bool) -> RolloutScore:
            episode = Episode(question, engine, EnvConfig(query_timeout_s=0.1))
            for turn in turns:
                text = turn if isinstance(turn, str) else render_call(ToolCall(*turn))
                episode.step(text)
            (score,) = score_episodes([episode], engine, RewardConfig(**rewards))  # type: ignore[arg-type]
            return score

        yield play


def run(sql: str) -> tuple[str, dict[str, str]]:
    """Return a turn that runs a query."""
    return "execute_sql", {"sql": sql}


def submit(sql: str) -> tuple[str, dict[str, str]]:
    """Return a turn that answers."""
    return "submit", {"sql": sql}


def look(table: str) -> tuple[str, dict[str, str]]:
    """Return a turn that describes a table."""
    return "describe_table", {"table": table}


def column(score: RolloutScore, name: str) -> list[float]:
    """Return one validator of every step."""
    return [values[name] for values in score.validators]


def test_a_flawless_rollout_earns_everything(played: Played) -> None:
    score = played(("list_tables", {}), look("customer"), run(GOLD), submit(GOLD))
    assert score.validators == (dict.fromkeys(VALIDATORS, 1.0),) * 4
    assert score.process == (1.0,) * 4
    assert score.outcome == 1.0
    assert score.counted


def test_a_duplicate_call_is_not_novel(played: Played) -> None:
    score = played(look("customer"), look("customer"), run(GOLD), run(GOLD), submit(GOLD))
    assert column(score, "novel") == [1, 0, 1, 0, 1]
    assert column(score, "executes") == [1] * 5
    assert score.process == (1.0, 0.75, 1.0, 0.75, 1.0)
    assert score.outcome == 1.0


@pytest.mark.parametrize(
    "variant",
    [
        "select  name\n from customer where city='London';",
        "SELECT name AS who FROM customer WHERE city = 'London'",
        "SELECT C.NAME FROM Customer AS C WHERE C.City = 'London'",
        'SELECT "name" FROM "customer" WHERE ("city" = \'London\') -- again',
    ],
)
def test_a_call_that_only_looks_different_is_not_novel(played: Played, variant: str) -> None:
    failing = "SELECT nam{} FROM customer"
    score = played(run(GOLD), run(variant), submit(GOLD))
    assert column(score, "novel") == [1, 0, 1]
    # Without a result to compare, the normal form alone must decide.
    score = played(run(failing.format("")), run("select  NAM from customer c"), submit(GOLD))
    assert column(score, "novel") == [1, 0, 1]


def test_a_repeated_call_in_other_letters_is_not_novel(played: Played) -> None:
    score = played(
        look("Order Item"),
        look(' "order item" '),
        ("search_values", {"text": "Lon"}),
        ("search_values", {"text": "LON"}),
        ("search_values", {"text": "lon", "table": "customer"}),
    )
    assert column(score, "novel") == [1, 0, 1, 0, 1]


def test_another_query_with_the_same_rows_is_a_repeat_only_if_asked_for(played: Played) -> None:
    turns = (
        run(GOLD),
        run("SELECT name FROM customer WHERE id IN (1, 3)"),
        run("SELECT name FROM londoner ORDER BY name DESC"),
        run("SELECT id FROM customer WHERE city = 'London'"),
        submit(GOLD),
    )
    assert column(played(*turns), "novel") == [1, 1, 1, 1, 1]
    assert column(played(*turns, novel_by_result=True), "novel") == [1, 0, 1, 1, 1]


@pytest.mark.parametrize("by_result", [False, True])
def test_two_filters_that_find_nothing_are_no_repeat(played: Played, by_result: bool) -> None:
    nothing = "SELECT name FROM customer WHERE city = '{}'"
    turns = (run(nothing.format("Rome")), run(nothing.format("Oslo")), run(nothing.format("Rome")))
    score = played(*turns, novel_by_result=by_result)
    assert column(score, "novel") == [1, 1, 0]
    assert score.process == (1.0, 1.0, 0.75)


def test_a_failing_query_does_not_execute(played: Played) -> None:
    endless = "WITH c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT max(x) FROM c"
    failing = ("SELECT name FROM customer WHERE", endless, "DELETE FROM customer")
    score = played(*map(run, failing), submit(GOLD))
    assert column(score, "executes") == [0, 0, 0, 1]
    assert column(score, "format") == [1, 1, 1, 1]
    assert column(score, "novel") == [1, 1, 1, 1]
    # What neither sqlglot nor SQLite understands names nothing that is known to exist.
    assert column(score, "grounded") == [0, 1, 0, 1]


def test_an_invented_column_is_not_grounded(played: Played) -> None:
    score = played(
        run("SELECT name, age FROM customer"),  # customer, customer.name exist; age does not
        run('SELECT name, "age" FROM customer'),  # SQLite runs it: "age" is text to it
        run("SELECT title FROM books"),
        look("books"),
        ("search_values", {"text": "x", "table": "customer", "column": "age"}),
        submit("SELECT name, age FROM customer"),
    )
    assert column(score, "grounded") == pytest.approx([2 / 3, 2 / 3, 0, 0, 1 / 2, 2 / 3])
    assert column(score, "executes") == [0, 1, 0, 0, 0, 0]
    assert score.outcome == 0.0


@pytest.mark.parametrize("answer", ["", "  ", ";", "-- nothing"])
def test_an_empty_answer_is_no_answer(played: Played, answer: str) -> None:
    score = played(submit(answer))
    assert score.validators == (dict.fromkeys(VALIDATORS, 0.0),)
    assert score.process == (0.0,)
    assert score.outcome == 0.0
    assert score.counted
    assert score.status == "predicted_error"


def test_a_malformed_step_earns_nothing(played: Played) -> None:
    score = played("Let me think.", submit(GOLD))
    assert score.validators[0] == dict.fromkeys(VALIDATORS, 0.0)
    assert score.process == (0.0, 1.0)
    assert score.outcome == 1.0


def test_submitting_what_was_run_is_no_repeat(played: Played) -> None:
    assert column(played(run(GOLD), submit(GOLD)), "novel") == [1, 1]


def test_process_rewards_do_not_see_the_outcome(played: Played) -> None:
    right = played(look("customer"), submit(GOLD))
    wrong = played(look("customer"), submit(GOLD.replace("London", "Paris")))
    assert (right.outcome, wrong.outcome) == (1.0, 0.0)
    assert right.process == wrong.process


def test_weights_change_the_mean(played: Played) -> None:
    turns = (run(GOLD), run(GOLD))
    assert played(*turns, novel_weight=0.0).process == (1.0, 1.0)
    assert played(*turns, novel_weight=3.0).process == (1.0, 0.5)


def test_validators_of_plain_facts() -> None:
    step = StepFacts(True, True, A, "d", ("t", "t.x", "t.y"), ("t", "t.x"))
    other = StepFacts(True, True, B, "d")
    assert [well_formed(step), executes(step), novel(step, []), grounded(step)] == [1, 1, 1, 2 / 3]
    assert novel(step, [StepFacts(True, True, B, "e")]) == 1
    assert [novel(step, [other]), novel(step, [other], by_result=True)] == [1, 0]
    assert validators(step, [other], novel_by_result=True)["novel"] == 0
    assert novel(step, [StepFacts(False), StepFacts(True, False, A)]) == 0
    assert novel(StepFacts(True, False, A), [StepFacts(True, False, B)]) == 1
    assert grounded(StepFacts(True, True, A)) == 1


FACTS = st.builds(
    StepFacts,
    st.booleans(),
    st.booleans(),
    st.none() | st.sampled_from([A, B]),
    st.sampled_from(["", "x", "y"]),
    st.just(("t", "u")),
    st.sampled_from([(), ("t",), ("t", "u")]),
)
WEIGHTS = st.floats(0, 10)


@given(FACTS, st.lists(FACTS, max_size=4), WEIGHTS, WEIGHTS)
def test_every_reward_is_a_mean_in_the_unit_interval(
    step: StepFacts, earlier: list[StepFacts], novel_weight: float, executes_weight: float
) -> None:
    values = validators(step, earlier)
    assert tuple(values) == VALIDATORS
    config = RewardConfig(novel_weight=novel_weight, executes_weight=executes_weight)
    reward = process_reward(values, config)
    assert min(values.values()) - 1e-12 <= reward <= max(values.values()) + 1e-12


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="novel_weight is -1; it must be >= 0"):
        RewardConfig(novel_weight=-1)
    with pytest.raises(InputError, match="novel_by_result is 'no'; it must be true or false"):
        RewardConfig(novel_by_result="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="all validator weights are 0"):
        RewardConfig(format_weight=0, executes_weight=0, novel_weight=0, grounded_weight=0)
    with pytest.raises(InputError, match="match_timeout_s is 0"):
        RewardConfig(match_timeout_s=0)


def test_a_missing_database_gives_no_steps_and_is_not_counted(tmp_path: Path) -> None:
    question = Question("1", "?", GOLD, "gone", tmp_path / "gone.sqlite")
    with Engine(workers=1) as engine:
        episode = Episode(question, engine, EnvConfig())
        (score,) = score_episodes([episode], engine, RewardConfig())
    assert (score.outcome, score.process, score.validators) == (0.0, (), ())
    assert not score.counted
    assert score.status == "failed"
    assert "No such file" in score.message

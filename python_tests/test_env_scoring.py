"""Scores of many episodes: which failures count, and which do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import score_episodes
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from support.databases import written

GOLD = "SELECT name FROM customer WHERE city = 'London' ORDER BY name"
ENDLESS = "WITH c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT max(x) FROM c"
Answered = Callable[..., Episode]


@pytest.fixture
def question(tmp_path: Path) -> Question:
    return Question("1", "Who?", GOLD, "shop", written(tmp_path / "shop.sqlite"))


@pytest.fixture
def answered(engine: Engine, question: Question) -> Answered:
    def answered(sql: str, **changes: str) -> Episode:
        episode = Episode(replace(question, **changes), engine, EnvConfig())  # type: ignore[arg-type]
        episode.step(render_call(ToolCall("submit", {"sql": sql})))
        return episode

    return answered


def test_outcomes_of_a_group_come_in_the_order_of_its_episodes(
    engine: Engine, answered: Answered
) -> None:
    answers = {
        GOLD: (1.0, "ok"),
        "SELECT name FROM londoner": (1.0, "ok"),
        "SELECT name FROM londoner UNION ALL SELECT name FROM londoner": (1.0, "ok"),
        "SELECT name FROM customer": (0.0, "ok"),
        "SELECT nam FROM customer": (0.0, "predicted_error"),
        "DELETE FROM customer": (0.0, "predicted_denied"),
        "PRAGMA table_info(customer)": (0.0, "predicted_denied"),
        ENDLESS: (0.0, "predicted_timeout"),
    }
    scores = score_episodes(
        [answered(sql) for sql in answers], engine, RewardConfig(match_timeout_s=0.2)
    )
    assert [(score.outcome, score.status) for score in scores] == list(answers.values())
    assert all(score.counted for score in scores)
    assert [score.validators[0]["executes"] for score in scores] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_query_that_was_mended_is_no_repeat(engine: Engine, question: Question) -> None:
    """A parser reads past a comma too many, SQLite does not."""
    episode = Episode(question, engine, EnvConfig())
    queries = (
        "SELECT name, FROM customer",
        "SELECT name FROM customer",
        "select NAME from customer",
    )
    for sql in (queries[0], queries[0], *queries[1:]):
        episode.step(render_call(ToolCall("execute_sql", {"sql": sql})))
    episode.step(render_call(ToolCall("submit", {"sql": GOLD})))
    (score,) = score_episodes([episode], engine, RewardConfig())
    assert [values["novel"] for values in score.validators] == [1, 0, 1, 0, 1]


def test_an_answer_that_equals_any_accepted_gold_is_right_and_all_must_fail_not_to_count(
    engine: Engine, question: Question
) -> None:
    outcomes = []
    for golds in (("SELECT 1", GOLD), ("SELECT nam FROM customer", GOLD), ("SELECT 1", "SELECT 2")):
        several = replace(question, gold_sql=golds[0], other_golds=golds[1:])
        episode = Episode(several, engine, EnvConfig())
        episode.step(render_call(ToolCall("execute_sql", {"sql": GOLD})))
        episode.step(render_call(ToolCall("submit", {"sql": GOLD})))
        (score,) = score_episodes([episode], engine, RewardConfig(), find_answers=True)
        outcomes.append((score.outcome, score.counted, score.found))
    assert outcomes == [
        (1.0, True, (True, False)),
        (1.0, True, (True, False)),
        (0.0, True, (False, False)),
    ]
    failing = replace(question, gold_sql="SELECT nam", other_golds=("DROP TABLE customer",))
    episode = Episode(failing, engine, EnvConfig())
    episode.step(render_call(ToolCall("submit", {"sql": GOLD})))
    (score,) = score_episodes([episode], engine, RewardConfig())
    assert (score.counted, score.status) == (False, "gold_error")


def test_a_final_answer_in_a_fence_is_read_and_an_executed_query_is_not(
    engine: Engine, question: Question
) -> None:
    episode = Episode(question, engine, EnvConfig())
    fenced = f"```sql\n{GOLD}\n```"
    for tool in ("execute_sql", "submit"):
        episode.step(render_call(ToolCall(tool, {"sql": fenced})))
    assert episode.final_sql == GOLD
    (score,) = score_episodes([episode], engine, RewardConfig())
    assert (score.outcome, score.status) == (1.0, "ok")
    assert [values["executes"] for values in score.validators] == [0, 1]
    assert [values["grounded"] for values in score.validators] == [0, 1]


def test_the_semantics_is_a_setting(engine: Engine, answered: Answered) -> None:
    doubled = "SELECT name FROM londoner UNION ALL SELECT name FROM londoner"
    backwards = GOLD + " DESC"
    episodes = [answered(doubled), answered(backwards)]
    outcomes = {
        semantics: [s.outcome for s in score_episodes(episodes, engine, RewardConfig(semantics))]
        for semantics in ("bird", "multiset", "strict", "ordered")
    }
    assert outcomes == {
        "bird": [1, 1],
        "multiset": [0, 1],
        "strict": [0, 0],
        "ordered": [0, 0],
    }


@pytest.mark.parametrize(
    ("gold", "status"),
    [
        ("SELECT nam FROM customer", "gold_error"),
        (ENDLESS, "gold_timeout"),
        ("", "gold_error"),
        ("DROP TABLE customer", "gold_denied"),
    ],
)
def test_a_failing_gold_query_takes_its_whole_group_out_of_the_statistics(
    engine: Engine, answered: Answered, question: Question, gold: str, status: str
) -> None:
    unanswered = Episode(replace(question, gold_sql=gold), engine, EnvConfig())
    unanswered.step("no call")
    unanswered.end(EpisodeStatus.OUT_OF_TOKENS)
    episodes = [answered(gold, gold_sql=gold), answered("SELECT 1", gold_sql=gold), unanswered]
    honest = answered(GOLD)
    scores = score_episodes([*episodes, honest], engine, RewardConfig(match_timeout_s=0.2))
    assert [score.counted for score in scores] == [False, False, False, True]
    assert [score.status for score in scores[:3]] == [status] * 3
    assert all(score.message and score.outcome == 0 for score in scores[:3])
    assert scores[3].outcome == 1


def test_an_episode_without_an_answer_is_wrong_and_counts(
    engine: Engine, question: Question
) -> None:
    endings = (EpisodeStatus.OUT_OF_TOKENS, EpisodeStatus.OUT_OF_STEPS, EpisodeStatus.TOO_MALFORMED)
    episodes = []
    for ending in endings:
        # Even where the gold result is empty: no answer is not the empty answer.
        without_rows = replace(question, gold_sql="SELECT name FROM customer WHERE 0")
        episode = Episode(without_rows, engine, EnvConfig())
        episode.step(render_call(ToolCall("list_tables", {})))
        episode.end(ending)
        episodes.append(episode)
    scores = score_episodes(episodes, engine, RewardConfig())
    assert [(s.outcome, s.counted, s.status) for s in scores] == [
        (0.0, True, str(ending)) for ending in endings
    ]
    assert [s.process for s in scores] == [(1.0,)] * 3


def test_a_failed_episode_is_not_counted_and_the_others_are(
    engine: Engine, answered: Answered, question: Question
) -> None:
    failed = Episode(question, engine, EnvConfig())
    failed.step(render_call(ToolCall("list_tables", {})))
    failed.end(EpisodeStatus.FAILED, "the sampler broke")
    bad, good = score_episodes([failed, answered(GOLD)], engine, RewardConfig())
    assert (bad.counted, bad.status, bad.message) == (False, "failed", "the sampler broke")
    assert len(bad.process) == 1
    assert (good.counted, good.outcome) == (True, 1.0)


def test_a_database_that_is_gone_by_the_time_of_scoring_is_not_counted(
    engine: Engine, answered: Answered, question: Question
) -> None:
    episode = answered(GOLD)
    os.remove(question.database)
    (score,) = score_episodes([episode], engine, RewardConfig())
    assert (score.counted, score.outcome, score.status) == (False, 0.0, "database_unreadable")


def test_no_episodes_have_no_scores(engine: Engine) -> None:
    assert score_episodes([], engine, RewardConfig()) == []

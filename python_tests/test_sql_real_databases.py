"""The engine, the analysis and the tools on questions and databases that others made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.env.question import load_questions
from finestep_fast.env.scoring import score_episodes
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine, Semantics, Status, database_schema
from finestep_fast.sql.analysis import analyse
from support.json_lines import json_lines
from support.real_questions import COLLECTIONS, database_of, golds

# The definition of each digit of a recorded verdict.
EVALUATORS: tuple[tuple[Semantics, bool], ...] = (
    ("bird", False),
    ("multiset", False),
    ("test_suite", False),
    ("test_suite", True),
)
# A query that fails as it is written was recorded as an error under every evaluator; as the
# test-suite evaluator rewrites it, some run.
MENDED = re.compile(r"[<>!] =|distinct|;.*\S", re.IGNORECASE | re.DOTALL)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(timeout_s=20) as engine:
        yield engine


@pytest.mark.parametrize("semantics", ["bird", "strict"])
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_gold_query_equals_itself(
    shared_data: Path, engine: Engine, collection: str, semantics: Semantics
) -> None:
    queries = list(golds(shared_data / collection))
    matches = engine.match([(db, query, query) for db, query in queries], semantics=semantics)
    failed = [(q, m) for (_, q), m in zip(queries, matches, strict=True) if not m.equal]
    assert failed == []


def test_real_predictions_get_the_verdicts_of_the_reference_evaluators(
    shared_data: Path, engine: Engine
) -> None:
    folder = shared_data / "spider_dev"
    triples, recorded = [], []
    entries = zip(
        json_lines(folder / "questions.jsonl"),
        json_lines(folder / "predictions.jsonl"),
        json_lines(folder / "reference_verdicts.jsonl"),
        strict=True,
    )
    for question, predictions, verdicts in list(entries)[::8]:
        database = database_of(folder, question)
        for system, queries in predictions["preds"].items():
            for query, verdict in zip(queries, verdicts["verdicts"][system], strict=True):
                triples.append((database, query, question["gold"]))
                recorded.append(verdict)
    assert len(triples) > 4000
    for digit, (semantics, keep_distinct) in enumerate(EVALUATORS):
        matches = engine.match(triples, semantics=semantics, keep_distinct=keep_distinct)
        for triple, verdict, match in zip(triples, recorded, matches, strict=True):
            if verdict == "error":
                rewritten = semantics == "test_suite" and MENDED.search(triple[1])
                assert rewritten or match.status is Status.PREDICTED_ERROR, triple
            elif verdict != "timeout":
                assert match.equal == (verdict[digit] == "1"), triple


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_gold_queries_parse_and_name_only_what_exists(shared_data: Path, collection: str) -> None:
    for database, query in golds(shared_data / collection):
        facts = analyse(query, database_schema(database))
        assert facts.parsed, query
        assert facts.tables, query
        assert facts.missing == (), query


def test_queries_for_databases_that_are_not_here_can_be_analysed(shared_data: Path) -> None:
    schema = database_schema(next(golds(shared_data / "spider_dev"))[0])
    folder = shared_data / "bird_minidev_text_only"
    queries = [entry["gold"] for entry in json_lines(folder / "questions.jsonl")]
    facts = [analyse(query, schema) for query in queries]
    assert all(fact.parsed and fact.missing for fact in facts)


def test_episodes_on_real_questions_end_as_they_should(shared_data: Path, engine: Engine) -> None:
    for collection in ("spider_dev", "spider_train", "spider_dk"):
        folder = shared_data / collection
        questions = load_questions(folder / "questions.jsonl", folder / "databases")[::9]
        episodes = []
        for question in questions:
            episode = Episode(question, engine, EnvConfig(max_steps=30))
            assert episode.schema is not None
            calls = [ToolCall("list_tables", {}), ToolCall("search_values", {"text": "an"})]
            calls += [
                ToolCall("describe_table", {"table": table.name})
                for table in episode.schema.tables[:3]
            ]
            calls += [
                ToolCall(name, {"sql": question.gold_sql}) for name in ("execute_sql", "submit")
            ]
            for call in calls:
                assert len(episode.step(render_call(call)).observation) <= 2000
            assert episode.status is EpisodeStatus.SUBMITTED
            episodes.append(episode)
        scores = score_episodes(episodes, engine, RewardConfig())
        assert {score.outcome for score in scores} == {1.0}
        assert {reward for score in scores for reward in score.process} == {1.0}

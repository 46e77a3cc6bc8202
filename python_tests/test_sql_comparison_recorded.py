"""Real predictions get the verdicts that the published evaluators gave them."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from finestep_fast import sql
from support.json_lines import json_lines
from support.real_questions import database_of

EVERY = 8
MAX_INSTRUCTIONS = 100_000_000


def _without_distinct(query: str) -> str:
    """Return the query without the word DISTINCT, except within quotes."""
    quoted = r"'[^']*'|\"[^\"]*\""
    return re.sub(rf"({quoted})|\bdistinct\b", lambda m: m[1] or "", query, flags=re.IGNORECASE)


def _spaced(query: str) -> str:
    """Return the query with the comparison operators joined that the evaluator joins."""
    return query.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")


class Database:
    """A database as the evaluators read it: plain rows, or None for an error."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        self._connection.set_progress_handler(lambda: True, MAX_INSTRUCTIONS)
        self.rows = cache(self._rows)

    def _rows(self, query: str) -> list[tuple[sql.Value, ...]] | None:
        try:
            return self._connection.execute(query).fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return None

    def close(self) -> None:
        self._connection.close()


def _verdicts(database: Database, predicted: str, gold: str) -> str:
    """Return four digits: set, bag, test-suite by default, test-suite with DISTINCT kept."""
    rows, gold_rows = database.rows(predicted), database.rows(gold)
    assert gold_rows is not None
    if rows is None:
        return "error"
    verdicts = [sql.compare(rows, gold_rows), sql.compare(rows, gold_rows, semantics="multiset")]
    for prepared in (_without_distinct, str):
        ours, theirs = prepared(_spaced(predicted)), prepared(_spaced(gold))
        rows, gold_rows = database.rows(ours), database.rows(theirs)
        ordered = "order by" in theirs.lower()
        verdicts.append(
            rows is not None
            and gold_rows is not None
            and sql.compare(rows, gold_rows, semantics="test_suite", ordered=ordered)
        )
    return "".join(str(int(verdict is True)) for verdict in verdicts)


@pytest.mark.slow
def test_spider_predictions_get_the_recorded_verdicts(shared_data: Path) -> None:
    spider = shared_data / "spider_dev"
    questions = {line["qid"]: line for line in json_lines(spider / "questions.jsonl")}
    recorded = {
        line["qid"]: line["verdicts"] for line in json_lines(spider / "reference_verdicts.jsonl")
    }
    databases: dict[str, Database] = {}
    checked: Counter[str] = Counter()
    wrong = []
    for line in json_lines(spider / "predictions.jsonl")[::EVERY]:
        name, qid = line["db_id"], line["qid"]
        if name not in databases:
            databases[name] = Database(database_of(spider, line))
        known: dict[str, str] = {}
        for system, predictions in line["preds"].items():
            for predicted, expected in zip(predictions, recorded[qid][system], strict=True):
                checked[expected] += 1
                if expected == "timeout":
                    continue
                if predicted not in known:
                    known[predicted] = _verdicts(databases[name], predicted, questions[qid]["gold"])
                if known[predicted] != expected:
                    wrong.append((qid, system, predicted, expected, known[predicted]))
    for database in databases.values():
        database.close()
    assert not wrong
    assert checked.total() > 4000
    assert len(checked) > 5

"""The files of one small evaluation, and how its results are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.eval.__main__ import main
from support.databases import written

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
GOLDS = (
    ("shop", "simple", "SELECT name FROM customer WHERE city = 'London'"),
    ("shop", "simple", "SELECT city FROM customer WHERE city IS NOT NULL ORDER BY city"),
    ("shop", "moderate", "SELECT id, name FROM customer"),
    ("shop", "challenging", "SELECT weight FROM customer"),
    ("zoo", "challenging", "SELECT count(*) FROM animal"),
    ("zoo", "moderate", "SELECT name FROM animal"),
)
PREDICTED = (
    "SELECT name FROM customer WHERE city LIKE 'London'",
    "SELECT DISTINCT city FROM customer WHERE city IS NOT NULL",  # right for `bird` alone
    "SELECT id FROM customer",
    "SELECT name FROM customer",
    "SELECT count(*) FROM animals",
    None,
)


@dataclass
class Evaluation:
    """The files of one evaluation."""

    folder: Path

    @property
    def questions(self) -> Path:
        return self.folder / "dev.json"

    @property
    def databases(self) -> Path:
        return self.folder / "databases"

    def words(self, *more: str | Path, predictions: Path | None = None) -> list[str]:
        """Return the arguments of the command."""
        return [
            str(predictions or self.folder / "predictions.json"),
            *("--questions", str(self.questions), "--databases", str(self.databases)),
            *map(str, more),
        ]

    def with_predictions(self, predicted: Sequence[str | None]) -> None:
        entries = {str(i): sql for i, sql in enumerate(predicted)}
        (self.folder / "predictions.json").write_text(json.dumps(entries), encoding="utf-8")


def made_evaluation(folder: Path) -> Evaluation:
    """Write questions, databases and predictions into a folder."""
    made = Evaluation(folder)
    written(made.databases / "shop" / "shop.sqlite")
    zoo = "CREATE TABLE animal(name TEXT); INSERT INTO animal VALUES ('Ara'), ('Bär')"
    written(made.databases / "zoo" / "zoo.sqlite", zoo)
    entries = [
        {"question_id": i, "db_id": db_id, "question": "?", "SQL": gold, "difficulty": difficulty}
        for i, (db_id, difficulty, gold) in enumerate(GOLDS)
    ]
    made.questions.write_text(json.dumps(entries), encoding="utf-8")
    made.with_predictions(PREDICTED)
    return made


def found(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> dict[str, Any]:
    """Return what the command prints with --json; nothing else may stand on standard output."""
    assert main([*words, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed

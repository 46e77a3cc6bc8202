"""`test_suite` over every database of a folder: right is what is right on all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.env.databases import database_file
from finestep_fast.env.question import Question
from finestep_fast.eval.suite import suites, worst_of
from finestep_fast.sql import Match, Status
from support.databases import written
from support.evaluation import Evaluation, found
from support.json_lines import json_lines

TABLE = "CREATE TABLE t(a, b);"
FIRST, SECOND, THIRD = (
    TABLE + "INSERT INTO t VALUES (1, 1), (2, 2)",
    TABLE + "INSERT INTO t VALUES (1, 1), (2, 3)",
    TABLE + "INSERT INTO t VALUES (1, 1), (1, 1)",
)
GOLD = "SELECT a FROM t"
OTHER = "SELECT b FROM t"
TWICE = "SELECT min(a) FROM t UNION ALL SELECT max(a) FROM t"


def made(evaluation: Evaluation, predicted: list[str], golds: list[Any]) -> None:
    """Ask on a folder of three databases, of which the first is the question's own."""
    folder = evaluation.databases / "x"
    for name, script in (("x", FIRST), ("x_1", SECOND), ("x_2", THIRD)):
        written(folder / f"{name}.sqlite", script)
    written(folder / "notes.db", "CREATE TABLE unrelated(a)")
    entries = [{"db_id": "x", "question": "?", "SQL": gold} for gold in golds]
    evaluation.questions.write_text(json.dumps(entries), encoding="utf-8")
    evaluation.with_predictions(predicted)


def test_a_query_that_is_right_by_chance_on_one_database_is_wrong(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted = [GOLD, OTHER, TWICE, "SELECT 1", "SELECT a FROM t WHERE a = abs(b)"]
    made(evaluation, predicted, [GOLD] * 5)
    output = evaluation.folder / "out.jsonl"
    words = evaluation.words("--semantics", "bird,test_suite", "--output", output)
    printed = found(capsys, words)
    # TWICE gives 1 and 2, 1 and 2, 1 and 1: as `a` does on all three.
    assert printed["overall"]["ex"] == {"bird": 0.8, "test_suite": 0.4}
    verdicts = [entry["others"]["test_suite"] for entry in json_lines(output)]
    assert [verdict["equal"] for verdict in verdicts] == [True, False, True, False, False]
    assert [verdict["message"] for verdict in verdicts] == [
        "",
        "x_1.sqlite: the results differ",
        "",
        "",  # wrong on the question's own database: the others are not tried
        "x_1.sqlite: the results differ",
    ]
    assert printed["test_suite_databases"] == {"x": 3}
    said = "test_suite: right is what is right on all 3 .sqlite files of a database's folder"
    assert said in printed["remarks"]
    assert found(capsys, evaluation.words())["test_suite_databases"] == {}


def test_one_accepted_gold_must_be_equal_on_all_databases(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    # Equal to the first gold on two databases, to the second on one, to neither on all.
    neither = "SELECT CASE WHEN (SELECT max(b) FROM t) = 3 THEN 7 ELSE a END FROM t"
    sevens = "SELECT 7 FROM t"
    made(evaluation, [neither, OTHER], [[GOLD, sevens], [GOLD, sevens, OTHER]])
    output = evaluation.folder / "out.jsonl"
    found(capsys, evaluation.words("--semantics", "test_suite", "--output", output))
    kept = json_lines(output)
    assert [entry["equal"] for entry in kept] == [False, True]
    assert kept[1]["gold_index"] == 2


def test_queries_that_fail_on_a_further_database_say_where(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    made(evaluation, ["SELECT c.a FROM t AS c", "SELECT a FROM t WHERE b > 0", GOLD], [GOLD] * 3)
    (evaluation.databases / "x" / "x_2.sqlite").unlink()
    written(evaluation.databases / "x" / "x_2.sqlite", "CREATE TABLE t(a)")
    output = evaluation.folder / "out.jsonl"
    words = evaluation.words("--semantics", "test_suite", "--output", output)
    found(capsys, words)
    assert [entry["status"] for entry in json_lines(output)] == ["ok", "predicted_error", "ok"]
    assert json_lines(output)[1]["message"] == "x_2.sqlite: no such column: b"
    evaluation.questions.write_text(
        json.dumps([{"db_id": "x", "question": "?", "SQL": gold} for gold in (OTHER, GOLD)])
    )
    evaluation.with_predictions([OTHER, GOLD])
    printed = found(capsys, words)
    assert printed["statuses"]["test_suite"] == {"gold_error": 1, "ok": 1}
    assert printed["overall"]["gold_failed"] == 1
    assert json_lines(output)[0]["message"].startswith("x_2.sqlite: gold query: no such column: b")


def test_a_limit_that_a_further_database_exceeds_is_no_failure_under_other_semantics(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two rows on the question's own database, three on the second.
    made(evaluation, ["SELECT a FROM t UNION ALL SELECT a FROM t WHERE b = 3"], [GOLD])
    output = evaluation.folder / "out.jsonl"
    words = ("--semantics", "test_suite,bird", "--max-rows", "2", "--output", output)
    found(capsys, evaluation.words(*words))
    (entry,) = json_lines(output)
    assert (entry["status"], entry["equal"]) == ("predicted_too_large", False)
    assert entry["others"]["bird"] == {"equal": True, "status": "ok", "message": ""}
    assert entry["soft_f1"] == 1.0


def test_a_folder_of_many_databases_is_no_suite(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / f"{name}.sqlite")
    written(tmp_path / "c" / "c.db")
    written(tmp_path / "c" / "c_1.sqlite")
    asked = [Question("", "", "", name, database_file(tmp_path, name)) for name in "abcd"]
    assert suites(asked) == {
        "a": (tmp_path / "a.sqlite",),
        "b": (tmp_path / "b.sqlite",),
        "c": (tmp_path / "c" / "c.db", tmp_path / "c" / "c_1.sqlite"),
        "d": (tmp_path / "d" / "d.sqlite",),
    }


def test_a_clear_no_goes_before_what_is_undecided_and_that_before_a_failed_gold() -> None:
    files = [Path("a"), Path("b"), Path("c")]
    right, wrong = Match(True, Status.OK), Match(False, Status.PREDICTED_ERROR, "bad")
    unclear, failed = Match(False, Status.UNDECIDED, "long"), Match(False, Status.GOLD_ERROR, "x")
    assert worst_of([right, right, right], files) == right
    assert worst_of([right, failed, wrong], files).message == "c: bad"
    assert worst_of([failed, unclear, right], files).message == "b: long"
    assert worst_of([right, right, failed], files).message == "c: x"

"""`python -m finestep_fast.eval --compare-sqlite`: what changes under another copy of SQLite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sqlite_packages import PACKAGES, unpacked
from finestep_fast import sql
from finestep_fast.errors import BuildError
from finestep_fast.eval.__main__ import main
from finestep_fast.eval.change import Change, change_of
from finestep_fast.sql import Engine, Result, Row, Status
from finestep_fast.sql.library_process import LibraryProcess
from support.evaluation import Evaluation
from support.profile import left_to_the_gate

TEN = "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 10)"
CASES = (
    ("SELECT round(2.675, 2)", "SELECT 2.68"),  # 2.68 up to 3.42, 2.67 since 3.43
    (f"{TEN} SELECT sum(0.1) FROM k", f"{TEN} SELECT total(0.1) FROM k"),
    ("SELECT 'a1'", "SELECT concat('a', 1)"),  # known since 3.44
    ("SELECT name FROM customer", "SELECT name FROM customer ORDER BY name DESC"),
    ("SELECT 1", "SELECT random()"),
    ("SELECT 2", None),
)


def written_cases(evaluation: Evaluation) -> None:
    entries = [
        {"question_id": f"q{i}", "db_id": "shop", "question": "?", "SQL": gold}
        for i, (gold, _) in enumerate(CASES)
    ]
    evaluation.questions.write_text(json.dumps(entries), encoding="utf-8")
    evaluation.with_predictions([predicted for _, predicted in CASES])


@pytest.mark.parametrize(
    ("one", "other", "change"),
    [
        (((1, "a"), (2, "b")), ((1, "a"), (2, "b")), Change.NONE),
        (((1, "a"),), ((1.0, "a"),), Change.NONE),
        (((1, None), (2, b"b")), ((2, b"b"), (1, None)), Change.ORDER),
        (((0.6000000000000001,),), ((0.6,),), Change.LAST_DIGITS),
        ((("b", 0.3), ("a", 0.2)), (("a", 0.2), ("b", 0.30000000000000004)), Change.LAST_DIGITS),
        (((2.68,),), ((2.67,),), Change.VALUES),
        (((1.0,),), ((1.000000002,),), Change.VALUES),
        ((("0.3",),), (("0.30000000000000004",),), Change.VALUES),
        (((1,),), ((1,), (1,)), Change.VALUES),
        (((1, 2),), ((1,),), Change.VALUES),
        (((None,),), ((0,),), Change.VALUES),
    ],
)
def test_a_change_is_named_by_its_kind(
    one: tuple[Row, ...], other: tuple[Row, ...], change: Change
) -> None:
    results = Result(Status.OK, rows=one), Result(Status.OK, rows=other)
    assert change_of(*results) is change
    assert change_of(*reversed(results)) is change


def test_a_failure_is_another_result_unless_both_fail_alike() -> None:
    failed = Result(Status.ERROR, message="no such function: concat")
    assert change_of(failed, Result(Status.OK)) is Change.STATUS
    assert change_of(failed, Result(Status.TIMEOUT)) is Change.STATUS
    assert change_of(failed, Result(Status.ERROR, message="in other words")) is Change.NONE


def test_the_same_copy_changes_nothing_and_exits_0(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    written_cases(evaluation)
    path, copy = sql.library().path, sql.library().version
    assert main(evaluation.words("--compare-sqlite", path)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"SQLite {copy} ({path})", f"beside {copy} ({path}), 6 questions"]
    assert printed[2].endswith("; 0 from right to wrong, 0 from wrong to right")
    assert printed[3:] == [
        "results of gold queries that change: none",
        "results of predicted queries that change: none",
        "question q4 (shop): predicted: not compared, its result changes from run to run",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("/none.so",), "no usable SQLite library (/none.so: "),
        (("pip", "--output", "out.jsonl"), "--compare-sqlite goes without --output"),
        (("pip", "--efficiency", "2"), "--compare-sqlite goes without --efficiency"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert main(evaluation.words("--compare-sqlite", *more)) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_says_how_far_it_came(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finestep_fast.eval.compare_sqlite.QUESTIONS_PER_WORKER", 1)
    match = Engine.match

    def stopped_later(engine: Engine, triples: Any, **options: Any) -> Any:
        if any("animal" in str(gold) for _, _, gold in triples):  # the last two of six questions
            raise KeyboardInterrupt
        return match(engine, triples, **options)

    monkeypatch.setattr(Engine, "match", stopped_later)
    assert main(evaluation.words("--compare-sqlite", sql.library().path)) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "stopped after 4 of 6 questions"


@pytest.fixture
def other_side(tmp_path: Path) -> str:
    """Return a library from the other side of 3.43 and 3.44 than the one in use."""
    is_old = [int(part) for part in sql.library().version.split(".")] < [3, 43]
    package = next(p for p in PACKAGES if p.sqlite == ("3.54.1" if is_old else "3.42.0"))
    path, reason = unpacked(package, tmp_path / "packages")
    if path is None:
        pytest.skip(reason)
    try:
        LibraryProcess(path).close()
    except BuildError as error:
        pytest.skip(str(error))
    return str(path)


@left_to_the_gate
def test_what_changes_under_another_copy_is_counted_and_listed(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], other_side: str
) -> None:
    written_cases(evaluation)
    words = evaluation.words("--semantics", "bird,strict", "--compare-sqlite", other_side)
    assert main([*words, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    is_old = report["sqlite"][1]["version"] == "3.54.1"
    # Right: up to 3.42 q0, q1 and q3; since 3.44 q1, q2 and q3.
    assert report["ex"] == {"bird": [3 / 6, 3 / 6], "strict": [3 / 6, 3 / 6]}
    assert report["right_to_wrong"] == report["wrong_to_right"] == {"bird": 1, "strict": 1}
    assert report["gold_results"] == {"last digits": 1, "values": 1}
    assert report["predicted_results"] == {"last digits": 1, "status": 1}
    rounded, total, joined, by_chance = report["changed"]
    order = 1 if is_old else -1
    assert rounded["verdicts"]["bird"] == [True, False][::order]
    assert rounded["results"] == {
        "gold": {"change": "values", "first": ["row 0: (2.68,)", "row 0: (2.67,)"][::order]}
    }
    assert total["verdicts"] == {}
    first = ["row 0: (0.9999999999999999,)", "row 0: (1.0,)"][::order]
    assert total["results"]["gold"] == {"change": "last digits", "first": first}
    assert joined["verdicts"]["strict"] == [False, True][::order]
    assert set(joined["results"]["predicted"]["first"]) == {
        "error: no such function: concat",
        "ok",
    }
    assert by_chance["unsteady"] == ["predicted"]
    assert main(words) == 1
    printed = capsys.readouterr().out.splitlines()
    words_of_q0 = ("right", "wrong")[::order]
    assert (
        f"question q0 (shop): bird: {words_of_q0[0]}, {words_of_q0[1]} under the other" in printed
    )
    assert "results of gold queries that change: last digits 1, values 1" in printed

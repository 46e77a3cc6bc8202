"""`python -m finestep_fast.eval` where a question has several accepted gold queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.eval.gold_failures import reasons, told
from support.evaluation import GOLDS, Evaluation, found
from support.json_lines import json_lines

LONDON, CITIES = GOLDS[0][2], GOLDS[1][2]
BAD = "SELECT weight FROM customer"


def with_golds(evaluation: Evaluation, *golds: Any) -> None:
    """Ask one question for each gold, or list of golds, on the shop."""
    entries = [{"db_id": "shop", "question": "?", "SQL": gold} for gold in golds]
    evaluation.questions.write_text(json.dumps(entries), encoding="utf-8")


def test_any_accepted_gold_makes_a_prediction_right_and_the_record_says_which(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    with_golds(evaluation, [CITIES, LONDON], [BAD, LONDON], [BAD, BAD + " "], LONDON)
    evaluation.with_predictions([LONDON] * 4)
    output = evaluation.folder / "out.jsonl"
    printed = found(capsys, evaluation.words("--output", output, "--efficiency", "2"))
    kept = json_lines(output)
    assert [entry["equal"] for entry in kept] == [True, True, False, True]
    assert [entry["status"] for entry in kept] == ["ok", "ok", "gold_error", "ok"]
    assert [entry.get("gold_index") for entry in kept] == [1, 1, 0, None]
    # Timed beside the gold that it equals: the first of the second question would give no time.
    assert ["efficiency" in entry for entry in kept] == [True, True, False, True]
    overall = printed["overall"]
    assert (overall["ex"], overall["gold_failed"]) == ({"bird": 0.75}, 1)
    assert overall["some_golds_failed"] == 1
    said = "1 question has accepted gold queries that failed, and others that ran and decided"
    assert said in printed["remarks"]


def test_every_accepted_gold_of_real_questions_is_right(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "defog"
    golds = [entry["gold_alternatives"] for entry in json_lines(folder / "questions.jsonl")]
    assert sum(len(accepted) > 1 for accepted in golds) == 19
    files = ("--questions", folder / "questions.jsonl", "--databases", folder / "databases")
    path, output = tmp_path / "predictions.json", tmp_path / "out.jsonl"
    for place in (0, 1, -1):
        predicted = [accepted[min(place, len(accepted) - 1)] for accepted in golds]
        path.write_text(json.dumps(predicted), encoding="utf-8")
        words = [str(word) for word in (path, *files, "--output", output)]
        printed = found(capsys, [*words, "--semantics", "bird,strict"])
        assert printed["overall"]["ex"] == {"bird": 1.0, "strict": 1.0}
        assert printed["overall"]["soft_f1"] == 1.0
        assert printed["overall"]["gold_failed"] == printed["overall"]["some_golds_failed"] == 0
    assert any(entry.get("gold_index", 0) > 0 for entry in json_lines(output))


def test_gold_queries_that_fail_are_counted_by_reason(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    unequal = "SELECT name FROM customer WHERE city IS DISTINCT FROM 'Paris'"
    golds = [BAD, BAD + " WHERE id > 1", [unequal, BAD], "DROP TABLE customer", LONDON]
    with_golds(evaluation, *golds)
    evaluation.with_predictions([LONDON, LONDON, unequal, LONDON, LONDON])
    words = ("--semantics", "bird,test_suite,strict")
    printed = found(capsys, evaluation.words(*words))
    no_column = {"no such column: weight": 2}
    reason = "DROP TABLE is not allowed: only a query that reads tables is"
    denied = {reason: 1}
    distinct = {"fails only because test_suite drops DISTINCT": 1}
    assert printed["gold_failures"] == {
        "bird": no_column | denied,
        "test_suite": no_column | distinct | denied,
        "strict": no_column | denied,
    }
    assert printed["statuses"]["test_suite"] == {"gold_error": 3, "gold_denied": 1, "ok": 1}
    said = [remark for remark in printed["remarks"] if remark.startswith("why gold queries")]
    assert said == [
        f"why gold queries failed under bird, strict: no such column: weight (2); {reason} (1)",
        "why gold queries failed under test_suite: no such column: weight (2); fails only because "
        f"test_suite drops DISTINCT (1); {reason} (1)",
    ]
    kept = found(capsys, evaluation.words(*words, "--keep-distinct"))
    assert kept["gold_failures"]["test_suite"] == kept["gold_failures"]["bird"]


def test_of_many_reasons_the_most_frequent_are_told() -> None:
    counts = reasons(["gold query: a"] * 2 + [f"gold query: {i}" for i in range(6)])
    assert counts == {"a": 2, **{str(i): 1 for i in range(6)}}
    assert told({"bird": counts, "strict": {}}) == [
        "why gold queries failed under bird: a (2); 0 (1); 1 (1); 2 (1); 3 (1); and 2 more reasons"
    ]

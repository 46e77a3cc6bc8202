"""`python -m finestep_fast.eval` where a question has several accepted gold queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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

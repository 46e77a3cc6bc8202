"""Predictions that come with verdicts of an earlier evaluation, perhaps with another SQLite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finestep_fast import sql
from finestep_fast.eval.recorded import recorded_verdicts
from support.evaluation import Evaluation, found
from support.json_lines import json_lines

OTHER = "3.9.2"


@pytest.fixture
def kept(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return what an evaluation kept: right are 0 and 1 under `bird`, 0 under `strict`."""
    path = evaluation.folder / "kept.jsonl"
    found(capsys, evaluation.words("--semantics", "bird,strict", "--output", path))
    return path


def test_verdicts_of_every_semantics_are_read(kept: Path) -> None:
    verdicts = recorded_verdicts(kept)
    assert len(verdicts) == 12
    right = [(v.question, v.semantics) for v in verdicts if v.equal]
    assert right == [
        *((("0", "shop"), "bird"), (("0", "shop"), "strict"), (("1", "shop"), "bird")),
    ]
    assert {verdict.sqlite for verdict in verdicts} == {sql.library().version}


def test_verdicts_of_this_version_need_no_warning(
    evaluation: Evaluation, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = found(capsys, evaluation.words(predictions=kept))
    assert printed["overall"]["ex"] == {"bird": 2 / 6}
    assert not [remark for remark in printed["remarks"] if "SQLite" in remark]


def test_verdicts_of_another_version_are_warned_of_and_counted(
    evaluation: Evaluation, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json_lines(kept)
    for entry in entries[:4]:
        entry["sqlite"] = OTHER
    entries[0]["equal"] = False
    entries[1]["others"]["strict"]["equal"] = True  # not evaluated below
    entries[2]["message"] = "a line\N{LINE SEPARATOR}more"
    kept.write_text(
        "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8"
    )
    warning = (
        f"the predictions come with verdicts found with SQLite {OTHER}; this is "
        f"{sql.library().version}, under which results may differ: do not compare the scores"
    )
    printed = found(capsys, evaluation.words(predictions=kept))
    assert printed["remarks"][-1] == (
        f"{warning}; 4 of them are found here again, 1 with another outcome"
    )


def test_the_warning_comes_before_the_work(
    evaluation: Evaluation, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from finestep_fast.eval.__main__ import main

    kept.write_text(kept.read_text(encoding="utf-8").replace(sql.library().version, OTHER))
    assert main(evaluation.words(predictions=kept)) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: the predictions come with verdicts found with SQLite")
    assert "note: the predictions come with verdicts found with SQLite 3.9.2" in printed.out


@pytest.mark.parametrize(
    "line", ['{"sqlite"', '["sqlite"]', '{"sqlite": "3.9.2"}', '["sqlite", ' + "[" * 9999]
)
def test_lines_that_are_no_verdicts_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(line, encoding="utf-8")
    assert recorded_verdicts(path) == []

"""`python -m finestep_fast.eval` where databases, queries or files are unusable."""

from __future__ import annotations

import json

import pytest

from finestep_fast.eval.__main__ import main
from support.evaluation import PREDICTED, Evaluation, found
from support.json_lines import json_lines


def test_a_missing_database_is_a_status(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation.databases / "zoo" / "zoo.sqlite").unlink()
    printed = found(capsys, evaluation.words("--max-unusable", "0.5"))
    assert printed["by_database"]["zoo"]["gold_failed"] == 1  # the other has no prediction
    assert printed["statuses"]["bird"]["database_unreadable"] == 1


def test_missing_databases_refuse_the_evaluation_by_name(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation.databases / "zoo" / "zoo.sqlite").unlink()
    assert main(evaluation.words()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 of 2 databases cannot be read: No such file or directory: 'zoo'" in printed.err
    assert "2 of 6 questions cannot be used, and --max-unusable is 0.1" in printed.err
    (evaluation.databases / "shop" / "shop.sqlite").unlink()
    assert main(evaluation.words("--max-unusable", "1")) == 2
    assert "'shop', 'zoo'; expected <db_id>/<db_id>.sqlite" in capsys.readouterr().err


def test_a_missing_database_that_is_allowed_is_reported(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation.databases / "zoo" / "zoo.sqlite").unlink()
    assert main(evaluation.words("--max-unusable", "0.4")) == 0
    printed = capsys.readouterr()
    assert "warning: databases '" in printed.err
    assert "note: databases '" in printed.out
    assert "No such file or directory: 'zoo'" in printed.out


@pytest.mark.parametrize("extension", ["db", "sqlite3"])
def test_databases_of_other_extensions_are_read(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], extension: str
) -> None:
    for name in ("shop", "zoo"):
        path = evaluation.databases / name / f"{name}.sqlite"
        path.rename(path.with_suffix(f".{extension}"))
    assert found(capsys, evaluation.words())["overall"]["ex"] == {"bird": pytest.approx(2 / 6)}


def test_where_no_gold_query_ran_there_is_a_dash_and_null_and_no_zero(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = json.loads(evaluation.questions.read_text(encoding="utf-8"))
    for question in questions:
        if question["db_id"] == "zoo":
            question["SQL"] = "SELECT none"
    evaluation.questions.write_text(json.dumps(questions))
    evaluation.with_predictions([*PREDICTED[:5], "SELECT 1"])
    assert found(capsys, evaluation.words())["by_database"]["zoo"]["ex"] == {"bird": None}
    assert main(evaluation.words("--efficiency", "1")) == 0
    rows = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["zoo", "2", *3 * ["\N{EN DASH}"]] in rows

    evaluation.questions.write_text(json.dumps([q | {"SQL": "SELECT none"} for q in questions]))
    assert main(evaluation.words("--json")) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["overall"]["ex"] == {"bird": None}
    assert json.loads(printed.out)["overall"]["ex_where_gold_ran"] == {"bird": None}
    assert "every gold query failed, nothing was measured; the first failed" in printed.err
    assert "no such column: none" in printed.err


def test_an_entry_that_is_no_query_fails_its_question_and_says_so(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = dict(enumerate(PREDICTED)) | {2: 0}
    (evaluation.folder / "predictions.json").write_text(json.dumps(entries))
    output = evaluation.folder / "out.jsonl"
    printed = found(capsys, evaluation.words("--output", output))
    assert printed["overall"]["ex"] == {"bird": pytest.approx(2 / 6)}
    assert json_lines(output)[2]["status"] == "no_prediction"
    assert json_lines(output)[2]["message"] == "is int 0, no query"
    remark = (
        "2 predictions are no query and counted as wrong; the first, key '2': is int 0, no query"
    )
    assert remark in printed["remarks"]


def test_results_that_python_cannot_decode_fail_where_they_fail_birds_evaluators(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    undecodable = "SELECT CAST(x'61ff' AS TEXT)"
    questions = json.loads(evaluation.questions.read_text(encoding="utf-8"))
    evaluation.questions.write_text(json.dumps([questions[0] | {"SQL": undecodable}]))
    evaluation.with_predictions([undecodable])
    output = evaluation.folder / "out.jsonl"
    printed = found(capsys, evaluation.words("--semantics", "bird,strict", "--output", output))
    assert printed["overall"]["ex"] == {"bird": None, "strict": 1.0}
    assert printed["overall"]["gold_failed"] == 1
    assert json_lines(output)[0]["soft_f1"] == 0.0


def test_texts_that_are_no_utf8_leave_valid_json(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation.folder / "predictions.json").write_text(json.dumps({"0": "SELECT '\ud800'"}))
    output = evaluation.folder / "out.jsonl"
    found(capsys, evaluation.words("--output", output))
    assert json_lines(output)[0]["predicted_sql"] == "SELECT '\ud800'"
    assert json_lines(output)[0]["status"] == "predicted_error"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--semantics", "bird,fuzzy"], "semantics is 'fuzzy'; expected some of bird, strict"),
        (["--limit", "0"], "limit is 0; expected at least 1"),
        (["--efficiency", "-1"], "--efficiency is -1; expected"),
        (["--timeout-s", "0"], "timeout_s is 0"),
        (["--max-rows", "-5"], "max_rows is -5"),
        (["--workers", "0"], "workers is 0"),
        (["--databases", "{folder}/none"], "databases '{folder}/none': is no folder"),
        (["--questions", "{folder}/none.json"], "questions '{folder}/none.json': No such file"),
        (["--questions", "{folder}/empty.json"], "questions '{folder}/empty.json': holds no"),
        (["--questions", "{folder}/bad.json"], "bad.json', line 2: db_id is missing"),
        (["--questions", "{folder}/predictions.json"], "line 1: "),
        (["--output", "{folder}/none/out.jsonl"], "output '{folder}/none/out.jsonl': No such"),
        (["--output", "{folder}/" + "x" * 300], " characters): File name too long"),
        (["--max-unusable", "2"], "--max-unusable is 2; it must be >= 0 and <= 1"),
        (["--max-unusable", "nan"], "--max-unusable is nan; it must be"),
        (["--output", "{folder}/predictions.json"], "is one of the files to read"),
        (["--output", "{folder}/dev.json"], "is one of the files to read"),
    ],
)
def test_unusable_input_is_named_and_nothing_is_written(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    (evaluation.folder / "empty.json").write_text("[]")
    good = '{"question": "?", "db_id": "shop", "SQL": "SELECT 1"}\n'
    (evaluation.folder / "bad.json").write_text(good + '{"question": "?"}')
    before = {path: path.read_bytes() for path in evaluation.folder.iterdir() if path.is_file()}
    words = [word.format(folder=evaluation.folder) for word in change]
    assert main(evaluation.words(*words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message.format(folder=evaluation.folder) in printed.err
    assert printed.err.count("\n") == 1
    assert {
        path: path.read_bytes() for path in evaluation.folder.iterdir() if path.is_file()
    } == before


def test_a_broken_predictions_file_is_named_with_its_key(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation.folder / "predictions.json").write_text('{"0": "SELECT 1", "77": "SELECT 1"}')
    assert main(evaluation.words()) == 2
    assert "predictions.json', key '77': " in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["PREDICTIONS", "--questions", "--databases"])
def test_a_missing_argument_is_asked_for(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    words = evaluation.words()
    del words[0 if missing == "PREDICTIONS" else slice(i := words.index(missing), i + 2)]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert missing in capsys.readouterr().err

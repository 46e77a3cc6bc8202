"""`python -m finestep_fast.eval`, on databases made here and on what others predicted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.eval.__main__ import main
from finestep_fast.sql import Engine
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
class World:
    """The files of one evaluation."""

    folder: Path

    @property
    def questions(self) -> Path:
        return self.folder / "dev.json"

    @property
    def databases(self) -> Path:
        return self.folder / "databases"

    def words(self, *more: str | Path, predictions: Path | None = None) -> list[str]:
        """The arguments of the command."""
        return [
            str(predictions or self.folder / "predictions.json"),
            *("--questions", str(self.questions), "--databases", str(self.databases)),
            *map(str, more),
        ]

    def with_predictions(self, predicted: Sequence[str | None]) -> None:
        entries = {str(i): sql for i, sql in enumerate(predicted)}
        (self.folder / "predictions.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
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
    """What the command prints with --json; nothing else may stand on standard output."""
    assert main([*words, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_numbers_for_programs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    printed = found(capsys, world.words("--semantics", "bird,strict"))
    assert printed["overall"] == {
        "questions": 6,
        "gold_failed": 1,
        "no_prediction": 1,
        "ex": {"bird": pytest.approx(2 / 6), "strict": pytest.approx(1 / 6)},
        "ex_where_gold_ran": {"bird": pytest.approx(2 / 5), "strict": pytest.approx(1 / 5)},
        # 1, then 1/2 of the rows after the first DISTINCT one, then 2/3, then failures.
        "soft_f1": pytest.approx((1 + 1 + 2 / 3) / 6),
    }
    assert list(printed["by_difficulty"]) == ["simple", "moderate", "challenging"]
    assert [g["questions"] for g in printed["by_difficulty"].values()] == [2, 2, 2]
    assert printed["by_difficulty"]["simple"]["ex"]["bird"] == 1.0
    assert printed["by_difficulty"]["challenging"]["gold_failed"] == 1
    assert printed["by_database"]["zoo"]["ex"] == {"bird": 0.0, "strict": 0.0}
    statuses = {"ok": 3, "gold_error": 1, "predicted_error": 1, "no_prediction": 1}
    assert printed["statuses"] == {"bird": statuses, "strict": statuses}
    assert printed["finestep_fast"] == version("finestep_fast")
    assert printed["sqlite"]["version"].count(".") == 2
    assert printed["semantics"] == ["bird", "strict"]
    assert any("1 gold query failed" in remark for remark in printed["remarks"])


def test_a_line_per_question_is_kept(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    output = world.folder / "out.jsonl"
    found(capsys, world.words("--semantics", "bird,strict", "--output", output))
    kept = records(output)
    assert [entry["question_id"] for entry in kept] == [str(i) for i in range(6)]
    assert [entry["equal"] for entry in kept] == [True, True, False, False, False, False]
    assert [entry["others"]["strict"]["equal"] for entry in kept][:2] == [True, False]
    assert [entry["status"] for entry in kept] == [
        *("ok", "ok", "ok", "gold_error", "predicted_error", "no_prediction")
    ]
    assert "no such column: weight" in kept[3]["message"]
    assert kept[4]["message"] == "no such table: animals"
    assert (kept[4]["db_id"], kept[4]["difficulty"]) == ("zoo", "challenging")
    assert kept[0]["elapsed_ms"] > 0
    assert {entry["sqlite"] for entry in kept} == {kept[0]["sqlite"]}
    assert kept[0]["semantics"] == "bird"
    assert "efficiency" not in kept[0]


def test_a_table_for_people(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(world.words("--semantics", "bird,strict")) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.replace("│", " ").splitlines()]
    assert ["all", "6", "33.33%", "16.67%", "44.44%"] in rows
    assert ["simple", "2", "100.00%", "50.00%", "100.00%"] in rows
    assert ["zoo", "2", "0.00%", "0.00%", "0.00%"] in rows
    assert "EX bird" in printed.out
    assert "R-VES" not in printed.out
    assert "status under bird: ok 3, " in printed.out
    assert "note: 1 gold query failed and count" in printed.out
    assert "questions: 6/6" in printed.err


def test_right_queries_are_timed_on_request(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    output = world.folder / "out.jsonl"
    printed = found(capsys, world.words("--efficiency", "3", "--output", output))
    timed = [entry["efficiency"] for entry in records(output) if "efficiency" in entry]
    assert len(timed) == 2
    assert all(entry["gold_ms"] > 0 and entry["time_ratio"] > 0 for entry in timed)
    expected = sum(entry["reward"] ** 0.5 for entry in timed) / 6
    assert printed["overall"]["r_ves"] == pytest.approx(expected)
    assert printed["efficiency_repeats"] == 3
    assert any(remark.startswith("R-VES: 3 runs") for remark in printed["remarks"])
    assert main(world.words("--efficiency", "1")) == 0
    assert "R-VES" in capsys.readouterr().out


def test_a_limit_takes_the_first_questions(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = found(capsys, world.words("--limit", "2"))
    assert printed["overall"]["questions"] == 2
    assert printed["overall"]["ex"] == {"bird": 1.0}


def test_a_query_out_of_time_or_of_bounds_is_wrong_and_runs_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.with_predictions([ENDLESS, 'SELECT * FROM customer, "Order Item"', *PREDICTED[2:]])
    output = world.folder / "out.jsonl"
    limits = ("--timeout-s", "0.2", "--max-rows", "10", "--threads", "1")
    started = time.monotonic()
    found(capsys, world.words(*limits, "--semantics", "bird,strict,multiset", "--output", output))
    late, large, *_ = records(output)
    assert (late["status"], large["status"]) == ("predicted_timeout", "predicted_too_large")
    assert late["others"]["multiset"] == {key: late[key] for key in ("equal", "status", "message")}
    assert late["soft_f1"] == large["soft_f1"] == 0.0
    assert late["elapsed_ms"] >= 200
    assert time.monotonic() - started < 100 * 0.2


def test_a_missing_database_is_a_status(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.databases / "zoo" / "zoo.sqlite").unlink()
    printed = found(capsys, world.words("--max-unusable", "0.5"))
    assert printed["by_database"]["zoo"]["gold_failed"] == 1  # the other has no prediction
    assert printed["statuses"]["bird"]["database_unreadable"] == 1


def test_missing_databases_refuse_the_evaluation_by_name(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.databases / "zoo" / "zoo.sqlite").unlink()
    assert main(world.words()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 of 2 databases cannot be read: No such file or directory: 'zoo'" in printed.err
    assert "2 of 6 questions cannot be used, and --max-unusable is 0.1" in printed.err
    (world.databases / "shop" / "shop.sqlite").unlink()
    assert main(world.words("--max-unusable", "1")) == 2
    assert "'shop', 'zoo'; expected <db_id>/<db_id>.sqlite" in capsys.readouterr().err


def test_a_missing_database_that_is_allowed_is_told(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.databases / "zoo" / "zoo.sqlite").unlink()
    assert main(world.words("--max-unusable", "0.4")) == 0
    printed = capsys.readouterr()
    assert "warning: databases '" in printed.err
    assert "note: databases '" in printed.out
    assert "No such file or directory: 'zoo'" in printed.out


@pytest.mark.parametrize("extension", ["db", "sqlite3"])
def test_databases_of_other_extensions_are_read(
    world: World, capsys: pytest.CaptureFixture[str], extension: str
) -> None:
    for name in ("shop", "zoo"):
        path = world.databases / name / f"{name}.sqlite"
        path.rename(path.with_suffix(f".{extension}"))
    assert found(capsys, world.words())["overall"]["ex"] == {"bird": pytest.approx(2 / 6)}


def test_where_no_gold_query_ran_there_is_a_dash_and_null_and_no_zero(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = json.loads(world.questions.read_text(encoding="utf-8"))
    for question in questions:
        if question["db_id"] == "zoo":
            question["SQL"] = "SELECT none"
    world.questions.write_text(json.dumps(questions))
    world.with_predictions([*PREDICTED[:5], "SELECT 1"])
    assert found(capsys, world.words())["by_database"]["zoo"]["ex"] == {"bird": None}
    assert main(world.words("--efficiency", "1")) == 0
    rows = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["zoo", "2", *3 * ["\N{EN DASH}"]] in rows

    world.questions.write_text(json.dumps([q | {"SQL": "SELECT none"} for q in questions]))
    assert main(world.words("--json")) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["overall"]["ex"] == {"bird": None}
    assert json.loads(printed.out)["overall"]["ex_where_gold_ran"] == {"bird": None}
    assert "every gold query failed, nothing was measured; the first failed" in printed.err
    assert "no such column: none" in printed.err


def test_an_entry_that_is_no_query_fails_its_question_and_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = dict(enumerate(PREDICTED)) | {2: 0}
    (world.folder / "predictions.json").write_text(json.dumps(entries))
    output = world.folder / "out.jsonl"
    printed = found(capsys, world.words("--output", output))
    assert printed["overall"]["ex"] == {"bird": pytest.approx(2 / 6)}
    assert records(output)[2]["status"] == "no_prediction"
    assert records(output)[2]["message"] == "is int 0, no query"
    told = "2 predictions are no query and counted as wrong; the first, key '2': is int 0, no query"
    assert told in printed["remarks"]


LOST = {
    "nobody reads": ("| true", "standard output cannot be written: Broken pipe"),
    "full": ("> /dev/full", "standard output cannot be written: No space left on device"),
    "closed": (">&-", "standard output is closed; send it to a file, or to /dev/null"),
}


@pytest.mark.parametrize(
    ("case", "how"), [("nobody reads", ""), ("full", "--json"), ("closed", "")], ids=list(LOST)
)
def test_a_lost_standard_output_ends_with_one_sentence(world: World, case: str, how: str) -> None:
    redirection, message = LOST[case]
    words = " ".join(["-m", "finestep_fast.eval", *world.words(), how])
    done = subprocess.run(
        ["bash", "-c", f"(sleep 0.2; {sys.executable} {words}; echo $? >&2) {redirection}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    *said, status = done.stderr.splitlines()
    assert said[-1] == f"error: {message}"
    assert status == "2"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_output_that_is_full_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(world.words("--output", "/dev/full")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "error: output '/dev/full': No space left on device"


def test_results_that_python_cannot_decode_fail_where_they_fail_birds_evaluators(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    undecodable = "SELECT CAST(x'61ff' AS TEXT)"
    questions = json.loads(world.questions.read_text(encoding="utf-8"))
    world.questions.write_text(json.dumps([questions[0] | {"SQL": undecodable}]))
    world.with_predictions([undecodable])
    output = world.folder / "out.jsonl"
    printed = found(capsys, world.words("--semantics", "bird,strict", "--output", output))
    assert printed["overall"]["ex"] == {"bird": None, "strict": 1.0}
    assert printed["overall"]["gold_failed"] == 1
    assert records(output)[0]["soft_f1"] == 0.0


def test_texts_that_are_no_utf8_leave_valid_json(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.folder / "predictions.json").write_text(json.dumps({"0": "SELECT '\ud800'"}))
    output = world.folder / "out.jsonl"
    found(capsys, world.words("--output", output))
    assert records(output)[0]["predicted_sql"] == "SELECT '\ud800'"
    assert records(output)[0]["status"] == "predicted_error"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--semantics", "bird,fuzzy"], "semantics is 'fuzzy'; expected some of bird, strict"),
        (["--limit", "0"], "limit is 0; expected at least 1"),
        (["--efficiency", "-1"], "--efficiency is -1; expected"),
        (["--timeout-s", "0"], "timeout_s is 0"),
        (["--max-rows", "-5"], "max_rows is -5"),
        (["--threads", "0"], "threads is 0"),
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
    world: World, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    (world.folder / "empty.json").write_text("[]")
    good = '{"question": "?", "db_id": "shop", "SQL": "SELECT 1"}\n'
    (world.folder / "bad.json").write_text(good + '{"question": "?"}')
    before = {path: path.read_bytes() for path in world.folder.iterdir() if path.is_file()}
    words = [word.format(folder=world.folder) for word in change]
    assert main(world.words(*words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message.format(folder=world.folder) in printed.err
    assert printed.err.count("\n") == 1
    assert {path: path.read_bytes() for path in world.folder.iterdir() if path.is_file()} == before


def test_a_broken_predictions_file_is_named_with_its_key(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.folder / "predictions.json").write_text('{"0": "SELECT 1", "77": "SELECT 1"}')
    assert main(world.words()) == 2
    assert "predictions.json', key '77': " in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["PREDICTIONS", "--questions", "--databases"])
def test_a_missing_argument_is_asked_for(
    world: World, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    words = world.words()
    del words[0 if missing == "PREDICTIONS" else slice(i := words.index(missing), i + 2)]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert missing in capsys.readouterr().err


def test_help_fits_a_screen_and_version_names_the_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"finestep_fast {version('finestep_fast')}\nSQLite 3.")
    assert "THREADSAFE=" in printed


def test_without_rich_the_table_is_refused_in_a_sentence_and_json_works(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finestep_fast.eval.screen.find_spec", lambda name: None)
    assert main(world.words()) == 2
    assert "pip install 'finestep_fast[eval]', or ask for --json" in capsys.readouterr().err
    assert found(capsys, world.words())["overall"]["questions"] == 6


def test_ctrl_c_keeps_what_was_evaluated(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = world.folder / "out.jsonl"
    monkeypatch.setattr("finestep_fast.eval.evaluation.QUESTIONS_PER_THREAD", 2)
    match = Engine.match

    def stopped_later(engine: Engine, *given: Any, **options: Any) -> Any:
        if output.stat().st_size > 0:
            raise KeyboardInterrupt
        return match(engine, *given, **options)

    monkeypatch.setattr(Engine, "match", stopped_later)
    assert main(world.words("--threads", "1", "--output", output)) == 130
    assert f"stopped after 2 of 6 questions, kept in {output}" in capsys.readouterr().err
    assert len(records(output)) == 2


def test_the_command_as_a_process(world: World) -> None:
    output = world.folder / "out.jsonl"
    world.with_predictions([PREDICTED[0], ENDLESS])
    command = [sys.executable, "-m", "finestep_fast.eval"]
    done = subprocess.run(
        [*command, *world.words("--json", "--limit", "1")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout)["overall"]["ex"] == {"bird": 1.0}
    assert done.stderr == "questions: 1/1\n"
    with subprocess.Popen(
        [*command, *world.words("--output", output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    ) as process:
        while not output.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (printed, said) == ("", f"stopped after 0 of 6 questions, kept in {output}\n")


def test_verdicts_on_real_predictions_are_those_recorded(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "spider_dev"
    system = "dail_gpt4"
    predicted, recorded = (
        [
            json.loads(line)[key][system][0]
            for line in (folder / name).read_text("utf-8").splitlines()
        ]
        for name, key in (("predictions.jsonl", "preds"), ("reference_verdicts.jsonl", "verdicts"))
    )
    predictions, output = tmp_path / "predictions.json", tmp_path / "out.jsonl"
    predictions.write_text(json.dumps(predicted), encoding="utf-8")
    files = ("--questions", folder / "questions.jsonl", "--databases", folder / "databases")
    words = [str(word) for word in (predictions, *files, "--output", output, "--semantics")]
    assert "timeout" not in recorded
    three = "bird,multiset,test_suite"
    for digits, more in ((range(3), [three]), ((3,), ["test_suite", "--keep-distinct"])):
        printed = found(capsys, [*words, *more])
        kept = records(output)
        for digit, name in zip(digits, printed["semantics"], strict=True):
            expected = [verdict[digit] == "1" for verdict in recorded]
            assert printed["overall"]["ex"][name] == pytest.approx(sum(expected) / 544)
            own = [{entry["semantics"]: entry, **entry.get("others", {})} for entry in kept]
            assert [verdicts[name]["equal"] for verdicts in own] == expected
            assert printed["statuses"][name]["predicted_error"] == recorded.count("error")
    assert printed["by_database"]["world_1"]["questions"] == 120

"""`python -m finestep_fast.eval`: its numbers, lines, table and options, also as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from finestep_fast.eval.__main__ import main
from finestep_fast.sql import Engine
from support.evaluation import ENDLESS, GOLDS, PREDICTED, Evaluation, found
from support.json_lines import json_lines


def test_numbers_for_programs(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    printed = found(capsys, evaluation.words("--semantics", "bird,strict"))
    assert printed["overall"] == {
        "questions": 6,
        "gold_failed": 1,
        "some_golds_failed": 0,
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


def test_a_line_per_question_is_kept(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluation.folder / "out.jsonl"
    found(capsys, evaluation.words("--semantics", "bird,strict", "--output", output))
    kept = json_lines(output)
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


def test_a_table_for_people(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(evaluation.words("--semantics", "bird,strict")) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.replace("│", " ").splitlines()]
    assert ["all", "6", "33.33%", "16.67%", "44.44%"] in rows
    assert ["zoo", "2", "0.00%", "0.00%", "0.00%"] in rows
    assert "EX bird" in printed.out
    # As BIRD's evaluation prints it: a column for each difficulty.
    heads = printed.out.replace("┃", " ").splitlines()
    assert ["simple", "moderate", "challenging", "total"] in [line.split() for line in heads]
    assert ["questions", "2", "2", "2", "6"] in rows
    assert ["EX", "bird", "100.00%", "0.00%", "0.00%", "33.33%"] in rows
    assert ["EX", "strict", "50.00%", "0.00%", "0.00%", "16.67%"] in rows
    assert ["Soft-F1", "100.00%", "33.33%", "0.00%", "44.44%"] in rows
    assert "R-VES" not in printed.out
    assert "status under bird: ok 3, " in printed.out
    assert "note: 1 gold query failed and count" in printed.out
    assert "questions: 6/6" in printed.err


def test_right_queries_are_timed_on_request(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluation.folder / "out.jsonl"
    printed = found(capsys, evaluation.words("--efficiency", "3", "--output", output))
    timed = [entry["efficiency"] for entry in json_lines(output) if "efficiency" in entry]
    assert len(timed) == 2
    assert all(entry["gold_ms"] > 0 and entry["time_ratio"] > 0 for entry in timed)
    expected = sum(entry["reward"] ** 0.5 for entry in timed) / 6
    assert printed["overall"]["r_ves"] == pytest.approx(expected)
    assert printed["efficiency_repeats"] == 3
    assert any(remark.startswith("R-VES: 3 runs") for remark in printed["remarks"])
    assert main(evaluation.words("--efficiency", "1")) == 0
    assert "R-VES" in capsys.readouterr().out


def test_a_limit_takes_the_first_questions(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = found(capsys, evaluation.words("--limit", "2"))
    assert printed["overall"]["questions"] == 2
    assert printed["overall"]["ex"] == {"bird": 1.0}


def test_a_query_out_of_time_or_of_bounds_is_wrong_and_runs_once(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation.with_predictions([ENDLESS, 'SELECT * FROM customer, "Order Item"', *PREDICTED[2:]])
    output = evaluation.folder / "out.jsonl"
    limits = ("--timeout-s", "0.2", "--max-rows", "10", "--workers", "1")
    started = time.monotonic()
    found(
        capsys, evaluation.words(*limits, "--semantics", "bird,strict,multiset", "--output", output)
    )
    late, large, *_ = json_lines(output)
    assert (late["status"], large["status"]) == ("predicted_timeout", "predicted_too_large")
    assert late["others"]["multiset"] == {key: late[key] for key in ("equal", "status", "message")}
    assert late["soft_f1"] == large["soft_f1"] == 0.0
    assert late["elapsed_ms"] >= 200
    assert time.monotonic() - started < 100 * 0.2


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
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finestep_fast.eval.screen.find_spec", lambda name: None)
    assert main(evaluation.words()) == 2
    assert "pip install 'finestep_fast[eval]', or ask for --json" in capsys.readouterr().err
    assert found(capsys, evaluation.words())["overall"]["questions"] == 6


def test_ctrl_c_keeps_what_was_evaluated(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = evaluation.folder / "out.jsonl"
    monkeypatch.setattr("finestep_fast.eval.evaluation.QUESTIONS_PER_WORKER", 2)
    match = Engine.match

    def stopped_later(engine: Engine, *given: Any, **options: Any) -> Any:
        if output.stat().st_size > 0:
            raise KeyboardInterrupt
        return match(engine, *given, **options)

    monkeypatch.setattr(Engine, "match", stopped_later)
    assert main(evaluation.words("--workers", "1", "--output", output)) == 130
    assert f"stopped after 2 of 6 questions, kept in {output}" in capsys.readouterr().err
    assert len(json_lines(output)) == 2


def test_the_command_as_a_process(evaluation: Evaluation) -> None:
    output = evaluation.folder / "out.jsonl"
    evaluation.with_predictions([PREDICTED[0], ENDLESS])
    command = [sys.executable, "-m", "finestep_fast.eval"]
    done = subprocess.run(
        [*command, *evaluation.words("--json", "--limit", "1")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout)["overall"]["ex"] == {"bird": 1.0}
    assert done.stderr == "questions: 1/1\n"
    with subprocess.Popen(
        [*command, *evaluation.words("--output", output)],
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
        [line[key][system][0] for line in json_lines(folder / name)]
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
        kept = json_lines(output)
        for digit, name in zip(digits, printed["semantics"], strict=True):
            expected = [verdict[digit] == "1" for verdict in recorded]
            assert printed["overall"]["ex"][name] == pytest.approx(sum(expected) / 544)
            own = [{entry["semantics"]: entry, **entry.get("others", {})} for entry in kept]
            assert [verdicts[name]["equal"] for verdicts in own] == expected
            assert printed["statuses"][name]["predicted_error"] == recorded.count("error")
    assert printed["by_database"]["world_1"]["questions"] == 120


def test_queries_in_fences_are_run_and_counted(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation.with_predictions([f"```sql\n{PREDICTED[0]}\n```", f"{PREDICTED[1]}\n```"])
    output = evaluation.folder / "out.jsonl"
    printed = found(capsys, evaluation.words("--output", output, "--limit", "2"))
    assert printed["overall"]["ex"] == {"bird": 1.0}
    assert printed["taken_out_of_fences"] == 2
    said = "2 predictions were taken out of fences or other text, where the published evaluators"
    assert said in printed["remarks"][-1]
    assert json_lines(output)[0]["predicted_sql"] == PREDICTED[0]
    printed = found(capsys, evaluation.words("--as-written", "--limit", "2"))
    assert printed["statuses"]["bird"] == {"predicted_error": 2}
    assert (printed["taken_out_of_fences"], printed["remarks"]) == (0, [])


def test_spiders_own_files_are_evaluated(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    """`gold.sql` and `predicted.sql` line by line, the databases in `database` by `tables.json`."""
    asked = [0, 1, 2, 4]
    gold, predicted = evaluation.folder / "gold.sql", evaluation.folder / "predicted.sql"
    gold.write_text("".join(f"{GOLDS[i][2]}\t{GOLDS[i][0]}\n" for i in asked))
    predicted.write_text("".join(f"{PREDICTED[i]}\n" for i in asked))
    evaluation.databases.rename(evaluation.folder / "database")
    (evaluation.folder / "tables.json").write_text("[]")
    words = [str(predicted), "--questions", str(gold), "--databases", str(evaluation.folder)]
    printed = found(capsys, words)
    assert printed["overall"]["ex"] == {"bird": 0.5}
    assert {name: g["questions"] for name, g in printed["by_database"].items()} == {
        "shop": 3,
        "zoo": 1,
    }

"""Runs on a user's own questions and databases, through the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from finestep_fast.train.__main__ import main
from finestep_fast.train.config import load_config
from finestep_fast.train.run import TrainingRun
from finestep_fast.train.stop import Stopped, StopRequest
from support.commands import evaluations, records, weights, without_seconds
from support.own_data import SMALL, words
from support.programs import errors_of
from support.tiny import Tiny

pytestmark = pytest.mark.slow


def test_a_run_on_own_data_goes_on_past_a_missing_database_and_a_failing_gold_query(
    own: Path, tiny: Tiny
) -> None:
    assert main(words(own, tiny)) == 0
    run = own / "run"
    for record in records(run, "metrics"):
        assert (record["rollouts"], record["failed"]) == (12.0, 6.0)
        assert record["grad_norm"] > 0
    by_question: dict[str, list[dict[str, object]]] = {}
    for record in records(run, "rollouts"):
        by_question.setdefault(record["question_id"], []).append(record)
    assert {key: len(value) for key, value in by_question.items()} == {str(n): 6 for n in range(6)}
    for record in by_question["2"]:
        assert (record["counted"], record["status"], record["steps"]) == (False, "FAILED", [])
        assert "nowhere.sqlite" in str(record["message"])
    for record in by_question["4"]:
        assert (record["counted"], record["answer_status"]) == (False, "gold_error")
        assert "absent" in str(record["message"])
    for number in "0135":
        assert all(record["counted"] for record in by_question[number])
    assert evaluations(run)["final"]["rollouts"] == 4.0

    given = AutoModelForCausalLM.from_pretrained(tiny.model_folder)
    trained = AutoModelForCausalLM.from_pretrained(run / "model")
    assert any(
        not torch.equal(a, b) for a, b in zip(given.parameters(), trained.parameters(), strict=True)
    )


def test_demonstrations_warm_up_a_given_model(own: Path, tiny: Tiny) -> None:
    """Those of a missing database and of held-out questions are left out."""
    calls = [{"name": "submit", "arguments": {"sql": "SELECT 1"}}]
    lines = [json.dumps({"question_id": n, "calls": calls}) for n in range(6)]
    (own / "demonstrations.jsonl").write_text("\n".join(lines))
    given = [word for word in words(own, tiny) if not word.startswith("data.dev_questions")]
    status = main(
        [
            *given,
            f"data.demonstrations={own / 'demonstrations.jsonl'}",
            "data.dev_share=0.3",
            "data.max_unusable_share=0.5",
            "warm_start.tokens=6000",
            "warm_start.batch_rollouts=2",
            "update.updates=0",
        ]
    )
    assert status == 0
    run = own / "run"
    losses = [record["loss"] for record in records(run, "warm_start")]
    assert losses[-1] < losses[0] / 2
    assert evaluations(run)["final"]["calls"] == 1.0
    # Without an update the weights stay as they are: the questions are not answered again.
    assert evaluations(run)["final"] == evaluations(run)["before"]
    assert {record["name"] for record in records(run, "evaluations")} == {"before"}


def test_a_run_with_a_reference_goes_on_with_the_same_one(
    own: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that was resumed to go further ends like one that was longer from the start."""
    given = [*words(own, tiny), "loss.kl=k3", "loss.kl_weight=0.1", "update.minibatches=1"]
    whole, parted = own / "whole", own / "parted"
    assert main([*given, f"output={whole}"]) == 0
    assert main([*given, f"output={parted}", "update.updates=1"]) == 0
    assert main([f"resume={parted}", "update.updates=2"]) == 0
    metrics = [[without_seconds(x) for x in records(run, "metrics")] for run in (whole, parted)]
    assert metrics[0] == metrics[1]
    assert metrics[0][0]["reference_kl"] == pytest.approx(0, abs=1e-7)
    assert metrics[0][1]["reference_kl"] > 1e-7
    mine, theirs = weights(parted / "model"), weights(whole / "model")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

    (parted / "reference.pt").unlink()
    assert main([f"resume={parted}", "update.updates=3"]) == 2
    assert "reference.pt is missing; the KL term needs" in capsys.readouterr().err


class StopWhere(StopRequest):
    """A request to stop that comes at the third safe point of a place in the run."""

    def __init__(self, updates: int, evaluations: list[str]) -> None:
        super().__init__()
        self.place = (updates, evaluations)
        self.run: TrainingRun | None = None
        self.checks = 0

    def check(self) -> None:
        assert self.run is not None
        state = self.run.state
        self.checks += (state.updates, list(state.evaluations)) == self.place
        if self.checks == 3:
            self.signal_number = signal.SIGTERM
        super().check()


def test_a_run_stopped_in_every_evaluation_and_every_update_makes_up_for_it(
    own: Path, tiny: Tiny
) -> None:
    given = [*words(own, tiny), "eval.every_updates=1", "checkpoint.every_updates=0"]
    whole, parted = own / "whole", own / "parted"
    assert main([*given, f"output={whole}"]) == 0
    again = [*given, f"output={parted}"]
    for updates, evaluated in (
        (0, []),
        (0, ["before"]),
        (1, ["before"]),
        (1, ["before", "update_1"]),
        (2, ["before", "update_1"]),
    ):
        stop = StopWhere(updates, evaluated)
        stop.run = TrainingRun(load_config(None, again), stop, resumed=updates + len(evaluated) > 0)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.run.train()
        again = [f"resume={parted}"]
    assert main(again) == 0
    assert evaluations(parted) == evaluations(whole)
    assert list(evaluations(whole)) == ["before", "update_1", "final"]
    for name in ("rollouts", "evaluations"):
        assert records(parted, name) == records(whole, name)
    metrics = [[without_seconds(x) for x in records(run, "metrics")] for run in (whole, parted)]
    assert metrics[0] == metrics[1]
    mine, theirs = weights(parted / "model"), weights(whole / "model")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_databases_of_another_extension_are_trained_on(own: Path, tiny: Tiny) -> None:
    for path in (own / "databases").glob("*/*.sqlite"):
        path.rename(path.with_suffix(".db"))
    given = [*words(own, tiny), f"data.dev_databases={own / 'databases'}", "update.updates=1"]
    assert main(given) == 0
    assert [record["rollouts"] for record in records(own / "run", "metrics")] == [12.0]


def test_a_run_that_loses_its_output_stops_with_its_state_saved(own: Path, tiny: Tiny) -> None:
    program = ("-m", "finestep_fast.train", *words(own, tiny))
    for redirection, reason, run in (
        ("| true", "Broken pipe", own / "piped"),
        ("> /dev/full", "No space left on device", own / "full"),
    ):
        errors = errors_of(*program, f"output={run}", redirection=redirection)
        *said, stopped, status = errors.splitlines()
        assert said.count(f"standard output cannot be written: {reason}") == 1
        resume = f"python -m finestep_fast.train resume={run}"
        assert stopped == f"stopped by SIGPIPE; the state is saved, go on with: {resume}"
        assert status == str(128 + signal.SIGPIPE)
        assert "Traceback" not in errors
        assert list((run / "checkpoints").glob("checkpoint-*"))


def test_questions_and_databases_from_elsewhere_go_through(
    shared_data: Path, tiny: Tiny, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    data = shared_data / "spider_train"
    status = main(
        [
            *SMALL,
            f"model={tiny.model_folder}",
            f"data.questions={data / 'questions.jsonl'}",
            f"data.databases={data / 'databases'}",
            "env.schema_in_prompt=full",
            "env.max_prompt_chars=600",
            f"output={run}",
        ]
    )
    assert status == 0
    metrics = records(run, "metrics")
    assert [record["rollouts"] + record["failed"] for record in metrics] == [18.0, 18.0]
    assert all(record["failed"] == 0 for record in metrics)
    rollouts = records(run, "rollouts")
    assert len({record["db_id"] for record in rollouts}) > 2
    assert sum(len(record["steps"]) for record in rollouts) > 36
    trained_on = {record["db_id"] for record in rollouts}
    held_out = {record["question_id"] for record in records(run, "evaluations")}
    assert held_out
    assert not held_out & {record["question_id"] for record in rollouts}
    assert trained_on <= {path.name for path in (data / "databases").iterdir()}

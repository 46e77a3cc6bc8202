"""A run is kept safe: stopped or killed at any place and resumed, it ends as if left alone."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finestep_fast.sql import library
from finestep_fast.train.__main__ import main
from finestep_fast.train.stop import Stopped, StopRequest
from support.commands import SMALL as WITHOUT_CRITIC
from support.commands import (
    evaluations,
    records,
    started,
    wait_for_lines,
    weights,
    without_seconds,
)
from support.damage import DAMAGES
from support.profile import THOROUGH

pytestmark = pytest.mark.slow

SMALL = (*WITHOUT_CRITIC, "credit.preset=finestep_value")
"""With credit by a value, so that what the critic remembers must be kept, too."""
KILLS = 20 if THOROUGH else 2
MOMENTS = (
    ".lock",
    "checkpoints/.partial-checkpoint-*",
    "metrics.jsonl",
    "config.yaml",
    "warm_start.jsonl",
    "checkpoints/.partial-*/checksums.json",
    "evaluations.jsonl",
    "checkpoints/.partial-*/optimizer.bin",
)
"""A run is killed soon after one of these has been written anew."""
HARMED = [
    (name, harm)
    for place, name in enumerate(
        (
            "model.safetensors",
            "optimizer_1.bin",
            "random_states_0.pkl",
            "run_state.json",
            "custom_checkpoint_1.pkl",
            "checksums.json",
        )
    )
    for number, harm in enumerate(DAMAGES)
    if THOROUGH or (place < 2 and place == number)
]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was never stopped; it keeps every checkpoint."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main([*SMALL, f"output={folder}", "checkpoint.keep=99"]) == 0
    return folder


def assert_ended_alike(run: Path, left_alone: Path) -> None:
    for name in ("warm_start", "rollouts", "evaluations"):
        mine, theirs = ((r / f"{name}.jsonl").read_bytes() for r in (run, left_alone))
        assert mine == theirs, name
    metrics = [[without_seconds(x) for x in records(r, "metrics")] for r in (run, left_alone)]
    assert metrics[0] == metrics[1]
    assert evaluations(run) == evaluations(left_alone)
    remembered = [newest_state(r)["value_memory"] for r in (run, left_alone)]
    assert remembered[0] == remembered[1] != []
    ours, others = weights(run / "model"), weights(left_alone / "model")
    assert ours.keys() == others.keys()
    assert all(torch.equal(ours[name], others[name]) for name in ours)


def newest_state(run: Path) -> dict[str, Any]:
    """Return where a run's last checkpoint says that it stands."""
    newest = max((run / "checkpoints").glob("checkpoint-*"))
    state: dict[str, Any] = json.loads((newest / "run_state.json").read_text())
    return state


def test_a_run_leaves_everything_a_person_wants_to_see(left_alone: Path) -> None:
    assert [r["update"] for r in records(left_alone, "metrics")] == [0, 1, 2, 3]
    assert len(records(left_alone, "rollouts")) == 4 * 16
    assert list(evaluations(left_alone)) == ["before", "update_2", "final"]
    assert (left_alone / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(records(left_alone, "warm_start")) > 20
    assert {"ex", "calls", "loss", "clip_fraction_high", "grad_norm", "learning_rate"} < records(
        left_alone, "metrics"
    )[0].keys()


def test_a_run_with_the_reference_begins_as_one_with_the_compiled_core(
    left_alone: Path, tmp_path: Path
) -> None:
    """Sampling makes a difference of one rounding grow, so only the first update is compared."""
    run = tmp_path / "run"
    assert main([*SMALL, f"output={run}", "impl=reference", "update.updates=1"]) == 0
    plain, fast = (without_seconds(records(r, "metrics")[0]) for r in (run, left_alone))
    for name in ("state_share", "value_brier_by_step"):
        assert plain.pop(name) == pytest.approx(fast.pop(name), abs=1e-6)
    assert plain.pop("value_reliability") == fast.pop("value_reliability")
    assert plain == pytest.approx(fast, rel=1e-4, abs=1e-6)
    rollouts = [records(r, "rollouts")[:16] for r in (run, left_alone)]
    for one, two in zip(*rollouts, strict=True):
        assert [step["reply"] for step in one["steps"]] == [step["reply"] for step in two["steps"]]
        for step, other in zip(one["steps"], two["steps"], strict=True):
            # Six decimals are recorded: a last one may be rounded to either side.
            assert round(abs(step["advantage"] - other["advantage"]) * 10**6) <= 1


def test_the_run_learns_something_to_compare(left_alone: Path) -> None:
    """Bit-identity would be easy for a run that samples one thing and changes no weight."""
    metrics = records(left_alone, "metrics")
    assert all(record["grad_norm"] > 0 for record in metrics)
    assert len({record["process_reward"] for record in metrics}) > 1
    replies = {step["reply"] for r in records(left_alone, "rollouts") for step in r["steps"]}
    assert len(replies) > 20
    first = sorted((left_alone / "checkpoints").glob("checkpoint-*"))[0]
    before, after = weights(first), weights(left_alone / "model")
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_a_run_stopped_in_the_warm_start_and_in_an_update_saves_and_says_how_to_go_on(
    left_alone: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    first = started([*SMALL, f"output={run}", "checkpoint.every_warm_steps=0"], log)
    wait_for_lines(first, run / "warm_start.jsonl", 5)
    first.send_signal(signal.SIGINT)
    assert first.wait() == 128 + signal.SIGINT
    goes_on = f"go on with: python -m finestep_fast.train resume={run}"
    last_line = log.read_text().splitlines()[-1]
    assert last_line == f"stopped by SIGINT; the state is saved, {goes_on}"

    second = started([f"resume={run}", "checkpoint.every_updates=0"], log)
    wait_for_lines(second, run / "metrics.jsonl", 1)
    second.send_signal(signal.SIGTERM)
    assert second.wait() == 128 + signal.SIGTERM
    shown = log.read_text()
    assert f"stopped by SIGTERM; the state is saved, {goes_on}" in shown
    steps = re.search(r"resumed from checkpoint-000001: (\d+) steps of warm start", shown)
    assert steps is not None
    assert int(steps[1]) >= 5
    assert "Traceback" not in shown

    assert main([f"resume={run}"]) == 0
    assert_ended_alike(run, left_alone)


def test_a_run_killed_again_and_again_ends_as_if_left_alone(
    left_alone: Path, tmp_path: Path
) -> None:
    run, log, rng = tmp_path / "run", tmp_path / "log", Random(0)
    words = [*SMALL, f"output={run}"]
    for kill in range(KILLS):
        moment = MOMENTS[kill % len(MOMENTS)]
        before = seen(run, moment)
        process = started(words, log)
        while process.poll() is None and seen(run, moment) <= before:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.003 if ".partial" in moment else 0.2))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0), log.read_text()
        if (run / "config.yaml").exists():
            words = [f"resume={run}"]
            # What no kill is sure to leave: half a save, half a line.
            for whole in (run / "checkpoints").glob("checkpoint-*"):
                left = whole.with_name(f".partial-checkpoint-{kill:06d}")
                shutil.copytree(whole, left, dirs_exist_ok=True)
            with (run / "warm_start.jsonl").open("a") as file:
                file.write('{"step": 9')
    assert main(words) == 0
    assert_ended_alike(run, left_alone)


def seen(run: Path, pattern: str) -> set[tuple[Path, int]]:
    """Return the files of a pattern and when they were last written."""
    found = set()
    for path in run.glob(pattern):
        with suppress(FileNotFoundError):
            found.add((path, path.stat().st_mtime_ns))
    return found


@pytest.mark.parametrize(("name", "harm"), HARMED)
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before_and_says_so(
    left_alone: Path,
    tmp_path: Path,
    name: str,
    harm: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    shutil.rmtree(run / "model")
    newest, before, *_ = sorted((run / "checkpoints").iterdir(), reverse=True)
    DAMAGES[harm](newest / name)
    assert main([f"resume={run}"]) == 0
    shown = capsys.readouterr().out
    assert f"warning: {newest.name} is passed over: " in shown
    assert name in shown or name == "checksums.json"
    assert f"resumed from {before.name}: 36 steps of warm start, 3 updates" in shown
    assert_ended_alike(run, left_alone)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.yaml", "world/dev.json", "tokenizer/tokenizer.json"]
)
def test_a_run_with_a_changed_folder_is_refused_by_the_name_of_the_file(
    left_alone: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    DAMAGES["flipped"](run / name)
    before = (run / "rollouts.jsonl").read_bytes()
    assert main([f"resume={run}"]) == 2
    shown = capsys.readouterr().err
    assert name.split("/")[0] in shown
    assert name.split("/")[-1] in shown
    assert (run / "rollouts.jsonl").read_bytes() == before


def test_a_run_with_logs_cut_short_goes_on_and_says_what_is_lost(
    left_alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    (run / "rollouts.jsonl").write_bytes((run / "rollouts.jsonl").read_bytes()[:-7])
    assert main([f"resume={run}", "update.updates=5"]) == 0
    shown = capsys.readouterr().out
    for name, lost in (("metrics", len(lines[3])), ("rollouts", "")):
        assert f"warning: {run / name}.jsonl: the last {lost}" in shown
    assert [record["update"] for record in records(run, "metrics")] == [0, 1, 2, 4]
    assert len(records(run, "rollouts")) == 5 * 16 - 1


def test_a_finished_run_that_is_resumed_stays_as_it_is(left_alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    assert main([f"resume={run}"]) == 0
    assert_ended_alike(run, left_alone)


def test_a_finished_run_goes_further_when_more_updates_are_asked_for(
    left_alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    assert main([f"resume={run}", "update.updates=5"]) == 0
    metrics = records(run, "metrics")
    assert [record["update"] for record in metrics] == [0, 1, 2, 3, 4]
    assert metrics[:4] == records(left_alone, "metrics")
    assert list(evaluations(run)) == ["before", "update_2", "update_4", "final"]
    assert evaluations(run)["update_4"] == evaluations(left_alone)["final"]
    before, after = weights(left_alone / "model"), weights(run / "model")
    assert any(not torch.equal(before[name], after[name]) for name in after)
    # What is new is what is credited: questions of the fifth update, not of the first again.
    rollouts = records(run, "rollouts")
    assert [r["update"] for r in rollouts[64:]] == [4] * 16


def test_the_folder_of_a_run_is_not_taken_for_another(
    left_alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (left_alone / "config.yaml").read_bytes()
    assert main([*SMALL, "seed=1", f"output={left_alone}"]) == 2
    shown = capsys.readouterr().err
    assert f"output is '{left_alone}'; a run is there already" in shown
    assert f"resume={left_alone}" in shown
    assert (left_alone / "config.yaml").read_bytes() == before


def test_a_signal_is_a_request_and_the_second_one_acts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        stop.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped, match="stopped by SIGINT"):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_every_checkpoint_and_the_model_are_read_by_transformers(left_alone: Path) -> None:
    folders = sorted((left_alone / "checkpoints").iterdir())
    assert len(folders) > 6
    logits = []
    for folder in [*folders, left_alone / "model"]:
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "How many?"}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        assert head.weight.data_ptr() == embedding.weight.data_ptr()
        saved = weights(folder)
        named = dict(model.named_parameters())
        assert all(torch.equal(named[name], value) for name, value in saved.items())
        with torch.no_grad():
            logits.append(model(prompt).logits)
    assert torch.equal(logits[-1], logits[-2]), "the last checkpoint is the model"
    assert not torch.equal(logits[-1], logits[0])


def test_the_settings_of_a_run_are_kept_whole(left_alone: Path) -> None:
    from finestep_fast.train.config import load_config

    given = load_config(None, [*SMALL, f"output={left_alone}"])
    kept = load_config(None, [f"resume={left_alone}", "checkpoint.keep=1"])
    assert kept == given


def test_every_update_records_the_peak_of_its_memory(left_alone: Path) -> None:
    peaks = [record["learn_peak_mib"] for record in records(left_alone, "metrics")]
    assert all(50 < peak < 10_000 for peak in peaks)


def test_the_report_gives_the_seconds_of_every_phase(left_alone: Path) -> None:
    report = json.loads((left_alone / "report.json").read_text())
    assert report["seconds"].keys() == {"warm start", "updates"}
    assert all(seconds > 0 for seconds in report["seconds"].values())


def test_the_report_names_the_library_that_ran_the_queries(left_alone: Path) -> None:
    report = json.loads((left_alone / "report.json").read_text())
    used = library()
    assert report["sqlite"]["version"] == used.version
    assert report["sqlite"]["path"] == used.path

"""One living process per run folder; what a run that never began leaves hinders no other run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from finestep_fast.errors import InputError
from finestep_fast.train.__main__ import main
from finestep_fast.train.config import load_config
from finestep_fast.train.state.checksums import partial, publish
from finestep_fast.train.state.folder import held, write_config
from finestep_fast.train.stop import Stopped, StopRequest
from support.commands import SMALL

HOLDER = """
import os, signal, sys
from pathlib import Path
from accelerate import Accelerator
from finestep_fast.train.state.folder import held
with held(Path(sys.argv[1]), Accelerator(cpu=True), resumed=False):
    child = os.fork()
    if child == 0:
        os.close(1)
        signal.pause()
    print(child, flush=True)
    signal.pause()
"""


def enter(folder: Path, *, resumed: bool = False) -> None:
    with held(folder, Accelerator(cpu=True), resumed=resumed):
        pass


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"output is '{tmp_path}'; process {os.getpid()} on "
    with held(tmp_path, Accelerator(cpu=True), resumed=False):
        write_config(load_config(None, [f"output={tmp_path}"]))
        before = sorted(tmp_path.rglob("*"))
        for words in ([f"resume={tmp_path}"], [*SMALL, f"output={tmp_path}"]):
            assert main(words) == 2
            shown = capsys.readouterr().err
            assert message in shown
            assert "is running there: stop it or wait for its end, or choose another" in shown
        assert sorted(tmp_path.rglob("*")) == before
    enter(tmp_path, resumed=True)


@pytest.mark.slow
def test_the_death_of_a_run_frees_its_folder(tmp_path: Path) -> None:
    """Though a process that it started may live on."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(InputError, match=f"process {holder.pid} on "):
            enter(tmp_path)
        holder.kill()
        holder.wait()
        holder.stdout.close()
        enter(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_run_that_never_began_leaves_its_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its world is not taken for that of other settings."""
    run = tmp_path / "run"
    for _ in range(2):
        assert main([*SMALL, f"output={run}", "warm_start.tokens=0"]) == 2
        assert "warm_start.tokens is 0; it must be more" in capsys.readouterr().err
        first = (run / "world" / "checksums.json").read_bytes()
    # What a kill leaves of a world and a tokenizer that were being made.
    for left in (partial(run / "world"), run / "..partial-world.a1b2", partial(run / "tokenizer")):
        left.mkdir()
        (left / "train.json").write_text("[")
    assert main([*SMALL, f"output={run}", "warm_start.tokens=0", "data.world.seed=1"]) == 2
    assert "warm_start.tokens is 0; it must be more" in capsys.readouterr().err
    assert (run / "world" / "checksums.json").read_bytes() != first
    assert sorted(path.name for path in run.iterdir()) == [".lock", "world"]


def test_a_folder_that_a_person_filled_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "map.txt").write_text("mine")
    (tmp_path / "questions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"world is there and was not made by a run"):
        enter(tmp_path)
    assert (tmp_path / "world" / "map.txt").read_text() == "mine"
    (tmp_path / "world").rename(tmp_path / "elsewhere")
    enter(tmp_path)
    assert (tmp_path / "questions.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl"])
def test_what_is_left_of_a_run_without_settings_is_not_taken_for_a_new_one(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name} is there, but no config.yaml of a run"):
        enter(tmp_path)


def test_what_a_run_made_is_cleared_only_where_a_new_one_begins(tmp_path: Path) -> None:
    partial(tmp_path / "tokenizer").mkdir()
    (partial(tmp_path / "tokenizer") / "tokenizer.json").write_text("{}")
    publish(tmp_path / "tokenizer")
    enter(tmp_path, resumed=True)
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    enter(tmp_path)
    assert not (tmp_path / "tokenizer").exists()


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"output is '.*file'; it must be a folder, .*: File exists"
    ):
        enter(tmp_path / "file")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped, match=f"stopped by {number.name}"):
            stop.check()
    assert signal.getsignal(number) is before


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_every_lock_is_released(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(KeyError), held(tmp_path, Accelerator(cpu=True), resumed=False):
            raise KeyError
    shutil.rmtree(tmp_path)

"""Files that a run keeps: what has been damaged since is named by its file."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from accelerate import Accelerator

from finestep_fast.errors import InputError
from finestep_fast.train.config import CONFIG_FILE, DataConfig, load_config
from finestep_fast.train.data import generate_world
from finestep_fast.train.state.checkpoint import Checkpoints, RunState
from finestep_fast.train.state.checksums import damage, partial, publish, remove
from finestep_fast.train.state.folder import write_config
from finestep_fast.train.state.logs import LogMark, Logs
from finestep_fast.train.stop import DivergedError
from support.damage import DAMAGES
from support.tiny import WORLD, Tiny

EVERY_DAMAGE = pytest.mark.parametrize("harm", DAMAGES.values(), ids=list(DAMAGES))
FILES = (
    "checksums.json",
    "run_state.json",
    "model.safetensors",
    "optimizer.bin",
    "optimizer_1.bin",
    "custom_checkpoint_0.pkl",
    "custom_checkpoint_1.pkl",
    "random_states_0.pkl",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


class Saved:
    """Something that is saved as a run saves itself."""

    def __init__(self, tiny: Tiny, folder: Path, keep: int) -> None:
        self.accelerator = Accelerator(cpu=True)
        model = tiny.trainable()
        warm, update = (torch.optim.AdamW(model.parameters(), lr=1e-3) for _ in range(2))
        self.model, *self.optimizers = self.accelerator.prepare(model, warm, update)
        for optimizer in self.optimizers:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            self.accelerator.register_for_checkpointing(schedule)
        self.model(input_ids=torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum().backward()
        self.optimizers[0].step()
        self.tokenizer = tiny.tokenizer
        self.state = RunState()
        self.checkpoints = Checkpoints(folder, keep)

    def save(self) -> Path:
        given = (self.state, self.accelerator, self.model, self.tokenizer, self.optimizers)
        return self.checkpoints.save(*given)


@pytest.fixture(scope="module")
def two_saved(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two checkpoints; tests must not change them."""
    saved = Saved(tiny, tmp_path_factory.mktemp("saved"), keep=2)
    for step in (8, 16):
        saved.state.warm_steps = step
        saved.save()
    return saved.checkpoints.folder


@pytest.fixture
def checkpoints(two_saved: Path, tmp_path: Path) -> Checkpoints:
    shutil.copytree(two_saved, tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints", keep=1)


def test_the_files_that_are_damaged_below_are_all_there_are(two_saved: Path) -> None:
    for folder in two_saved.iterdir():
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert damage(folder) is None


@EVERY_DAMAGE
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_by_the_name_of_its_file(
    checkpoints: Checkpoints, name: str, harm: Callable[[Path], None]
) -> None:
    harm(checkpoints.folder / "checkpoint-000002" / name)
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest[0].name, latest[1].warm_steps) == ("checkpoint-000001", 8)
    ((folder, problem),) = checkpoints.passed_over.items()
    assert folder.name == "checkpoint-000002"
    assert name in problem or name == "checksums.json"


def test_a_run_with_only_damaged_checkpoints_is_refused_and_not_begun_anew(
    checkpoints: Checkpoints,
) -> None:
    (checkpoints.folder / "checkpoint-000001" / "model.safetensors").unlink()
    DAMAGES["flipped"](checkpoints.folder / "checkpoint-000002" / "optimizer.bin")
    with pytest.raises(
        InputError,
        match=r"no checkpoint is whole: checkpoint-000002: optimizer.bin is not as it was written; "
        r"checkpoint-000001: model.safetensors is missing",
    ):
        checkpoints.latest()


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("phase", "updating", "phase is 'updating'; it must be 'warm_start', 'update' or 'done'"),
        ("phase", None, "phase is None"),
        ("warm_steps", -1, "warm_steps is -1; it must be an integer >= 0"),
        ("updates", 3, "phase is 'warm_start'; after 3 updates it is over"),
        ("updates", "3", "updates is '3'; it must be an integer"),
        ("evaluations", [], "evaluations is []"),
        ("logs", {"metrics": 3}, "logs.metrics is 3"),
        ("unknown", 1, "unknown key 'unknown'"),
    ],
)
def test_a_state_that_no_run_can_have_is_damage_too(
    checkpoints: Checkpoints, key: str, value: object, rule: str
) -> None:
    """As a program with a fault would write it: its checksum is right."""
    folder = checkpoints.folder / "checkpoint-000002"
    path = folder / "run_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    folder.rename(partial(folder))
    publish(folder)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-000001"
    assert rule in checkpoints.passed_over[folder]


def test_a_checkpoint_is_not_replaced_by_one_that_is_not_finite(tiny: Tiny, tmp_path: Path) -> None:
    saved = Saved(tiny, tmp_path, keep=1)
    first = saved.save()
    with torch.no_grad():
        saved.model.lm_head.weight[3, 1] = float("nan")
    with pytest.raises(DivergedError, match=r"a checkpoint is not written: .* is not finite"):
        saved.save()
    assert list(tmp_path.iterdir()) == [first]
    with torch.no_grad():
        saved.model.lm_head.weight[3, 1] = 0.0
        for moments in saved.optimizers[0].state.values():
            moments["exp_avg_sq"].fill_(float("inf"))
    with pytest.raises(DivergedError, match=r"exp_avg_sq of the optimiser's parameter 0"):
        saved.save()
    assert list(tmp_path.iterdir()) == [first]
    assert damage(first) is None


def test_the_last_good_checkpoint_stays_beside_one_after_a_skipped_step(
    tiny: Tiny, tmp_path: Path
) -> None:
    saved = Saved(tiny, tmp_path, keep=1)
    names = []
    for skipped in (0, 0, 2, 0):
        saved.state.skipped_in_a_row = skipped
        saved.save()
        names.append(sorted(int(path.name[-6:]) for path in tmp_path.iterdir()))
    assert names == [[1], [2], [2, 3], [4]]


def test_what_was_passed_over_takes_the_place_of_no_good_checkpoint(
    tiny: Tiny, tmp_path: Path
) -> None:
    saved = Saved(tiny, tmp_path, keep=2)
    for _ in range(2):
        saved.save()
    DAMAGES["cut short"](tmp_path / "checkpoint-000002" / "optimizer.bin")
    assert saved.checkpoints.latest() is not None
    assert saved.save().name == "checkpoint-000003"
    latest = saved.checkpoints.latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-000003"
    assert damage(tmp_path / "checkpoint-000001") is None


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **settings: object) -> None:
        if path.exists():
            (path / "model.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(checkpoints.folder / "checkpoint-000001")
    assert [path.name for path in checkpoints.folder.glob("checkpoint-*")] == ["checkpoint-000002"]


RECORDS = [{"update": number, "text": "ü\u2028" * number} for number in range(5)]


def marked(folder: Path) -> tuple[Logs, dict[str, LogMark]]:
    """Return logs of five lines that were marked, and one line beyond."""
    logs = Logs(folder, active=True)
    logs.write("metrics", RECORDS[:3])
    logs.write("rollouts", RECORDS)
    logs.write("metrics", RECORDS[3:])
    marks = logs.marks()
    logs.write("metrics", [{"update": 5}])
    return logs, marks


def test_logs_are_cut_back_to_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("no log of a run\n")
    logs, marks = marked(tmp_path)
    logs.write("evaluations", [{"name": "before"}])
    assert Logs(tmp_path, active=True).cut_back(marks) == []
    assert logs.cut_back(marks) == []
    assert logs.read("metrics") == logs.read("rollouts") == RECORDS
    assert logs.read("evaluations") == []
    assert logs.read("warm_start") == []
    assert (tmp_path / "mine.jsonl").read_text() == "no log of a run\n"
    logs.write("metrics", [{"update": 5}])
    again = logs.marks()
    assert again["rollouts"] == marks["rollouts"]
    assert again["metrics"].num_bytes == (tmp_path / "metrics.jsonl").stat().st_size
    assert Logs(tmp_path, active=True).cut_back(again) == []


@pytest.mark.parametrize("whole_lines", range(5))
def test_a_log_that_was_cut_short_is_cut_back_to_whole_lines(
    tmp_path: Path, whole_lines: int
) -> None:
    logs, marks = marked(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:whole_lines])
    path.write_bytes(kept + lines[whole_lines][:-1])
    (warning,) = logs.cut_back(marks)
    gone = marks["metrics"].num_bytes - len(kept)
    assert warning == f"{path}: the last {gone} bytes are lost"
    assert path.read_bytes() == kept
    logs.write("metrics", [{"update": 7}])
    assert logs.read("metrics") == [*RECORDS[:whole_lines], {"update": 7}]
    assert logs.read("rollouts") == RECORDS


def test_a_log_that_is_gone_is_reported(tmp_path: Path) -> None:
    logs, marks = marked(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    assert logs.cut_back(marks) == [
        f"{tmp_path / 'metrics.jsonl'}: the last {marks['metrics'].num_bytes} bytes are lost"
    ]
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("short", [False, True])
def test_a_log_that_was_changed_is_refused_and_none_is_touched(tmp_path: Path, short: bool) -> None:
    logs, marks = marked(tmp_path)
    path = tmp_path / "rollouts.jsonl"
    text = bytearray(path.read_bytes()[: -9 if short else None])
    text[0] ^= 1
    path.write_bytes(text)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=re.escape(f"{path} is not as it was written")):
        logs.cut_back(marks)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_half_a_surrogate_pair_is_logged_as_its_escape(tmp_path: Path) -> None:
    logs = Logs(tmp_path, active=True)
    logs.write("rollouts", [{"sql": "SELECT '\ud800'"}])
    assert logs.read("rollouts") == [{"sql": "SELECT '\ud800'"}]
    assert logs.marks()["rollouts"].num_bytes == (tmp_path / "rollouts.jsonl").stat().st_size


def test_a_silent_process_writes_no_log(tmp_path: Path) -> None:
    logs, marks = marked(tmp_path)
    silent = Logs(tmp_path, active=False)
    silent.write("metrics", [{"n": 2}])
    assert silent.cut_back({}) == []
    assert silent.marks() == {}
    assert logs.cut_back(marks) == []
    assert logs.read("metrics") == RECORDS


@EVERY_DAMAGE
def test_damaged_settings_of_a_run_are_refused_by_name(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    write_config(load_config(None, [f"output={tmp_path}"]))
    harm(tmp_path / CONFIG_FILE)
    with pytest.raises(InputError, match=re.escape(CONFIG_FILE)):
        load_config(None, [f"resume={tmp_path}"])


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_of_the_settings_changes_them(tmp_path: Path, bit: int) -> None:
    given = load_config(None, [f"output={tmp_path}"])
    write_config(given)
    path = tmp_path / CONFIG_FILE
    whole = path.read_bytes()
    for place in Random(bit).sample(range(len(whole)), 20):
        text = bytearray(whole)
        text[place] ^= 1 << bit
        path.write_bytes(text)
        try:
            taken = load_config(None, [f"resume={tmp_path}"])
        except InputError:
            continue
        assert taken == given
        assert place < whole.index(b"\n"), "what is left is the checksum's own line"


def test_settings_may_be_changed_by_hand_where_the_checksum_is_removed(tmp_path: Path) -> None:
    write_config(load_config(None, [f"output={tmp_path}"]))
    path = tmp_path / CONFIG_FILE
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))
    with pytest.raises(InputError, match=r"is not as the run wrote it; .* remove the checksum"):
        load_config(None, [f"resume={tmp_path}"])
    path.write_text(path.read_text().partition("\n")[2])
    assert load_config(None, [f"resume={tmp_path}"]).seed == 7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "world"
    generate_world(DataConfig(world=WORLD), root)
    return root


@EVERY_DAMAGE
@pytest.mark.parametrize(
    "name", ["train.json", "demonstrations.jsonl", "checksums.json", "*.sqlite"]
)
def test_a_damaged_world_is_refused_by_the_name_of_its_file(
    world: Path, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    (path, *_) = sorted(root.rglob(name))
    harm(path)
    with pytest.raises(InputError, match=re.escape(f"{root}: ")) as refused:
        generate_world(DataConfig(world=WORLD), root)
    assert path.relative_to(root).as_posix() in str(refused.value) or name == "checksums.json"


def test_a_world_is_made_anew_where_it_is_gone(world: Path, tmp_path: Path) -> None:
    partial(tmp_path / "world").mkdir()
    (partial(tmp_path / "world") / "left").write_text("by a kill")
    generate_world(DataConfig(world=dataclasses.replace(WORLD)), tmp_path / "world")
    lists = [(root / "checksums.json").read_bytes() for root in (world, tmp_path / "world")]
    assert lists[0] == lists[1]

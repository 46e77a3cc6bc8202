"""Checkpoints: written beside the last one and renamed, so that there always is a whole one.

A checkpoint is what `accelerate` saves (weights, optimisers, schedulers, random states), the
tokenizer and model settings that make the folder readable by `transformers`, `run_state.json`:
where the run stands and how long its logs were, and a checksum of every file. One that has been
damaged since is passed over.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finestep_fast.config import build
from finestep_fast.config.check import check_whole
from finestep_fast.errors import InputError
from finestep_fast.train.learn.finite import check_finite
from finestep_fast.train.state.checksums import damage, partial, publish, remove
from finestep_fast.train.state.logs import LogMark

Phase = Literal["warm_start", "update", "done"]
_STATE = "run_state.json"


@dataclass
class RunState:
    """Where a run stands."""

    phase: Phase = "warm_start"
    """What it is doing."""
    warm_steps: int = 0
    """Optimiser steps of the warm start that are done, skipped ones too."""
    updates: int = 0
    """Updates that are done."""
    evaluations: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Results on dev by name: `warm_start`, `update_20`, `final`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent per phase, over all attempts."""
    skipped_steps: dict[str, int] = field(default_factory=dict)
    """Optimiser steps that were skipped, per phase."""
    skipped_in_a_row: int = 0
    """Of these, the last ones with none taken after them."""
    value_memory: list[float] = field(default_factory=list)
    """What the critic of scope `value` remembers; see `Critic.remembered`."""
    logs: dict[str, LogMark] = field(default_factory=dict)
    """How far every log went when the state was saved."""
    kept: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what else the run's folder must still hold, by name."""
    num_processes: int = 1
    """That the run had."""
    saves: int = 0
    """Number of the latest checkpoint."""

    def __post_init__(self) -> None:
        """Check that a run can stand there.

        Raises:
            InputError: It cannot.
        """
        for name in ("warm_steps", "updates", "skipped_in_a_row", "saves"):
            check_whole(name, getattr(self, name), low=0)
        check_whole("num_processes", self.num_processes, low=1)
        if self.phase == "warm_start" and self.updates:
            raise InputError(f"phase is 'warm_start'; after {self.updates} updates it is over")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are kept.
        keep: How many stay, those that were passed over not counted.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.passed_over: dict[Path, str] = {}
        """What is wrong with which checkpoint, newest first; of the last search for a whole one."""

    def save(
        self,
        state: RunState,
        accelerator: Accelerator,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> Path:
        """Write a checkpoint, whole or not at all; older ones beyond `keep` go.

        They stay where the last step was skipped: the weights may be what made it so.

        Raises:
            DivergedError: A number to be written is not finite; nothing is written, none goes.
        """
        check_finite("a checkpoint", accelerator, model, optimizers)
        state.saves = max([state.saves, *self._found()]) + 1
        final = self.folder / f"checkpoint-{state.saves:06d}"
        beside = partial(final)
        if accelerator.is_main_process:
            for left in self.folder.glob(".partial-*"):
                shutil.rmtree(left)
            beside.mkdir(parents=True)
        accelerator.wait_for_everyone()
        # It notes at every save that tied weights are stored once; they are tied again when read.
        logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
        accelerator.save_state(str(beside))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            model.config.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            (beside / _STATE).write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
            publish(final)
            kept = [path for path in self._found().values() if path not in self.passed_over]
            for old in [] if state.skipped_in_a_row else kept[: -self.keep]:
                remove(old)
        accelerator.wait_for_everyone()
        return final

    def latest(self) -> tuple[Path, RunState] | None:
        """Return the newest whole checkpoint and its state, or None if there is no checkpoint.

        Raises:
            InputError: There are some, and all of them are damaged.
        """
        self.passed_over = {}
        for folder in reversed(self._found().values()):
            problem = damage(folder)
            if problem is None:
                try:
                    return folder, _read_state(folder / _STATE)
                except InputError as error:
                    problem = str(error)
            self.passed_over[folder] = problem
        if self.passed_over:
            reasons = "; ".join(f"{folder.name}: {why}" for folder, why in self.passed_over.items())
            raise InputError(f"{self.folder}: no checkpoint is whole: {reasons}")
        return None

    def _found(self) -> dict[int, Path]:
        """Return all checkpoints by number, oldest first."""
        numbers = {
            int(match[1]): path
            for path in self.folder.glob("checkpoint-*")
            if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
        }
        return dict(sorted(numbers.items()))


def _read_state(path: Path) -> RunState:
    """Read where a run stands.

    Raises:
        InputError: The file does not say it, or no run can stand there.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} is not the state of a run: {error}") from error
    return build(RunState, values, where=path.name)

"""Checkpoints: written beside the last one and renamed, so that there always is a whole one.

A checkpoint is what `accelerate` saves (weights, optimisers, schedulers, random states), the
tokenizer and model settings that make the folder readable by `transformers`, and `run_state.json`:
where the run stands and how long its logs were.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finestep_fast.errors import InputError

Phase = Literal["warm_start", "update", "done"]
_STATE = "run_state.json"


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        phase: what it is doing.
        warm_steps: optimiser steps of the warm start that are done.
        updates: updates that are done.
        evaluations: results on dev by name: `warm_start`, `update_20`, `final`.
        seconds: time spent per phase, over all attempts.
        log_bytes: length of every log when the state was saved.
        saves: checkpoints written so far; names the next one.
    """

    phase: Phase = "warm_start"
    warm_steps: int = 0
    updates: int = 0
    evaluations: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    log_bytes: dict[str, int] = field(default_factory=dict)
    saves: int = 0


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are kept.
        keep: how many stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self,
        state: RunState,
        accelerator: Accelerator,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
    ) -> Path:
        """Write a checkpoint, whole or not at all; older ones beyond `keep` go."""
        state.saves += 1
        final = self.folder / f"checkpoint-{state.saves:06d}"
        partial = self.folder / f".partial-{final.name}"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        # It notes at every save that tied weights are stored once; they are tied again when read.
        logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            model.config.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / _STATE).write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
            _sync(partial)
            partial.rename(final)
            for old in self._found()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()
        return final

    def latest(self) -> tuple[Path, RunState] | None:
        """The newest whole checkpoint and its state, or None.

        Raises:
            InputError: Its state cannot be read.
        """
        found = self._found()
        if not found:
            return None
        path = found[-1] / _STATE
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found[-1], RunState(**values)
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path}: is not the state of a run: {error}") from error

    def _found(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob(f"checkpoint-*/{_STATE}"))


def _sync(folder: Path) -> None:
    """Force a folder's files onto the disk before the rename makes them count."""
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())

"""Runs of the real command with settings small enough for tests, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from support.json_lines import json_lines

SMALL = (
    "precision=float32",
    "small_model.vocab_size=480",
    "small_model.layers=2",
    "small_model.hidden_size=64",
    "small_model.mlp_size=128",
    "data.world.train_databases_per_theme=1",
    "data.world.dev_databases_per_theme=1",
    "data.world.train_questions=28",
    "data.world.dev_questions=8",
    "data.world.demonstrations.per_question=4",
    "env.max_observation_chars=200",
    "env.max_malformed=3",
    "warm_start.tokens=60000",
    "warm_start.batch_rollouts=8",
    "warm_start.optim.learning_rate=1e-2",
    "warm_start.optim.rise_steps=0",
    "rollout.prompts=4",
    "rollout.rollouts_per_prompt=4",
    "rollout.max_step_tokens=40",
    "rollout.max_rollout_tokens=400",
    "rollout.tool_threads=2",
    "update.updates=4",
    "update.optim.learning_rate=1e-3",
    "eval.questions=6",
    "eval.every_updates=2",
    "checkpoint.every_updates=1",
    "checkpoint.every_warm_steps=8",
)
"""The quickstart in a few seconds. The model learns to call tools, so updates change weights."""


def started(
    words: Sequence[str], log: Path, launcher: Sequence[str] = ("-m",)
) -> subprocess.Popen[str]:
    """Start the command in a process of its own; what it prints goes to `log`."""
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [sys.executable, *launcher, "finestep_fast.train", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "120"},
        )


def wait_for_lines(process: subprocess.Popen[str], path: Path, num_lines: int) -> None:
    """Wait until a running command has written so many lines to a log."""
    while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
        assert process.poll() is None, (
            f"ended with {process.returncode} before {path.name} was long"
        )
        time.sleep(0.002)


def records(run: Path, name: str) -> list[dict[str, Any]]:
    """Return the records of a log."""
    return json_lines(run / f"{name}.jsonl")


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what a clock said, or the machine of its memory."""
    return {
        key: value for key, value in record.items() if not key.endswith(("seconds", "peak_mib"))
    }


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a saved model."""
    return load_file(folder / "model.safetensors")


def evaluations(run: Path) -> dict[str, Any]:
    """Return what the report says of every evaluation, times left out."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return {name: without_seconds(values) for name, values in report["evaluations"].items()}

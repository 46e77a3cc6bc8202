"""One run of the study: the warm start it shares with other arms, updates, test split, record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.credit_study.arms import ARMS, WARM_EX
from finestep_fast.train.quickstart import WorldConfig, write_world

_TEST_SEED = 10_000
_EVERY = 15  # updates between evaluations on dev
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_MEANS = ("ex", "calls", "redundant_rate", "malformed_rate", "unsubmitted_rate", "policy_tokens")


@dataclass(frozen=True, order=True)
class Cell:
    """Which run: equal cells are the same run."""

    world: str
    """Name of the settings file of the world."""
    prompts: int
    """Questions of an update."""
    arm: str
    """A key of `ARMS`."""
    warm: int
    """Which warm start: the seed of the world and of the weights."""
    seed: int
    """Of the questions' order and of the sampling."""
    max_kl: float
    """Bound on the KL divergence of an update, in nats per token."""
    updates: int
    """How many."""

    @property
    def name(self) -> str:
        """Return the name of the run's folder."""
        return (
            f"{self.world}-{self.prompts}-{self.arm}-kl{self.max_kl:g}-u{self.updates}"
            f"-w{self.warm}-s{self.seed}"
        )


def done_cells(results: Path) -> dict[Cell, dict[str, Any]]:
    """Return the records of the runs that are done."""
    return {Cell(**record["cell"]): record for record in records(results)}


def records(results: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file, none if it is not there."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def run(cell: Cell, root: Path, *, learning_rate: float) -> dict[str, Any]:
    """Do one run, or what is left of it, and return its record.

    Args:
        cell: Which.
        root: Where the folders of runs and warm starts are.
        learning_rate: Of the updates, so large that the bound on the KL divergence is met.
    """
    warm = root / "warm" / f"{cell.world}-w{cell.warm}"
    folder = root / "runs" / cell.name
    words = [
        *_data(warm, split="dev"),
        *ARMS[cell.arm],
        "credit.allow_reward_imbalance=true",  # presets are compared as they are
        f"rollout.prompts={cell.prompts}",
        f"update.updates={cell.updates}",
        "update.minibatches=1",
        f"update.max_kl={cell.max_kl}",
        f"update.optim.learning_rate={learning_rate}",
        f"eval.every_updates={_EVERY}",
    ]
    _train(cell.world, folder, cell.seed, words)
    examined = root / "runs" / f"{cell.name}-test"
    words = [*_data(warm, split="test", model=folder / "model"), "update.updates=0"]
    _train(cell.world, examined, cell.seed, words)
    record = {"cell": asdict(cell), "learning_rate": learning_rate, **_measured(folder, examined)}
    shutil.rmtree(examined)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "rollouts.jsonl").unlink(missing_ok=True)
    return record


def run_elsewhere(cell: Cell, root: Path, data: Path) -> dict[str, Any]:
    """Let the trained agent of a run that is done answer other questions, and return its record.

    Args:
        cell: Which run.
        root: Where the folders of runs are.
        data: A folder of `questions.jsonl` in BIRD's format and `databases`.
    """
    folder = root / "elsewhere" / f"{cell.name}-{data.name}"
    words = [
        f"model={root / 'runs' / cell.name / 'model'}",
        f"data.questions={data / 'questions.jsonl'}",
        f"data.databases={data / 'databases'}",
        f"data.dev_questions={data / 'questions.jsonl'}",
        "data.max_unusable_share=1",
        "warm_start.tokens=0",
        "env.describe_tools=false",
        "update.updates=0",
    ]
    _train(cell.world, folder, cell.seed, words)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rates = {key: report["evaluations"]["before"].get(key) for key in _MEANS}
    return {"cell": asdict(cell), "data": data.name, "rates": rates}


def warm_start(world: str, seed: int, root: Path) -> None:
    """Make the world and the warm policy of a seed, or what is left of them."""
    folder = root / "warm" / f"{world}-w{seed}"
    of_world = "data.explore.seed" if world == "explore" else "data.world.seed"
    _train(world, folder, seed, [f"{of_world}={seed}", "update.updates=0"])
    if world == "quickstart" and not (folder / "test_world").exists():
        # It has no test split: the dev questions of another world of the same kind are it.
        write_world(folder / "test_world", WorldConfig(seed=seed + _TEST_SEED, train_questions=56))


def is_usable(world: str, warm_ex: float) -> bool:
    """Return whether a warm policy is as good, and as bad, as the study asks for."""
    low, high = WARM_EX.get(world, (0.0, 1.0))
    return low <= warm_ex <= high


def warm_ex(world: str, seed: int, root: Path) -> float:
    """Return EX on dev of the warm policy of a seed, which has been made."""
    report = root / "warm" / f"{world}-w{seed}" / "report.json"
    evaluations = json.loads(report.read_text(encoding="utf-8"))["evaluations"]
    return float(evaluations["before"]["ex"])


def _data(warm: Path, *, split: str, model: Path | None = None) -> list[str]:
    world = warm / "world"
    judged = world
    if split == "test" and not (world / "test.json").exists():
        judged, split = warm / "test_world", "dev"
    return [
        f"model={model or warm / 'model'}",
        f"data.questions={world / 'train.json'}",
        f"data.databases={world / 'databases'}",
        f"data.dev_questions={judged / split}.json",
        f"data.dev_databases={judged / 'databases'}",
        "warm_start.tokens=0",
        "env.describe_tools=false",  # the warm policy knows its tools from demonstrations
    ]


def _train(world: str, folder: Path, seed: int, words: list[str]) -> None:
    """Train unless the folder holds a finished run; go on with one that was stopped."""
    if (folder / "report.json").exists():
        return
    command = [sys.executable, "-m", "finestep_fast.train"]
    if (folder / "config.yaml").exists() and (folder / "checkpoints").exists():
        command.append(f"resume={folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        command += [world, f"output={folder}", f"seed={seed}", *words]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        subprocess.run(
            command, check=True, stdout=log, stderr=log, env={**os.environ, **_ONE_THREAD}
        )


def _measured(folder: Path, examined: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    test = json.loads((examined / "report.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    updates = [json.loads(line) for line in lines]
    dev = {
        name: {key: rates.get(key) for key in _MEANS}
        for name, rates in report["evaluations"].items()
    }
    return {
        "dev": dev,
        "test": {key: test["evaluations"]["before"].get(key) for key in _MEANS},
        "sampled": {key: [record.get(key) for record in updates] for key in ("ex", "calls")},
        "update_kl": mean(record.get("update_kl", 0.0) for record in updates),
        "step_share": mean(record.get("step_share", 0.0) for record in updates),
        "seconds": sum(record["rollout_seconds"] + record["learn_seconds"] for record in updates),
    }

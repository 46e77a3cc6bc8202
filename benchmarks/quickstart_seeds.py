"""The quickstart over several seeds and credit presets: one table, one picture.

    python -m benchmarks.quickstart_seeds --seeds 0 1 2 --presets finestep grpo --set impl=reference

Every run is the real command in a process of its own; runs that are finished already are only read.
The world, the weights and the sampling all follow the seed, so presets are compared run by run on
equal terms: they share the warm start to the bit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from math import nan
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

_COLORS = ("#0b6e99", "#c8553d", "#5b8c5a", "#7a5c99")
_WINDOW = 5  # updates that are averaged in the picture


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=["finestep", "grpo"])
    parser.add_argument(
        "--output", type=Path, default=Path("runs/seeds"), help="folder of the runs"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="more settings of every run"
    )
    parser.add_argument("--picture", type=Path, help="where to draw (default: OUTPUT/curves.png)")
    options = parser.parse_args()
    runs = {
        (preset, seed): _run(options.output / f"{preset}_{seed}", preset, seed, options.set)
        for seed in options.seeds
        for preset in options.presets
    }
    Console(width=110).print(_table(runs))
    picture = options.picture or options.output / "curves.png"
    _draw(picture, runs, options.presets)
    print(f"picture: {picture}")


def _run(folder: Path, preset: str, seed: int, settings: Sequence[str]) -> Path:
    """Train unless the folder holds a finished run; return the folder."""
    if not (folder / "report.json").exists():
        words = [f"seed={seed}", f"data.world.seed={seed}", f"credit.preset={preset}", *settings]
        if (folder / "config.yaml").exists():
            words = [f"resume={folder}"]
        command = [sys.executable, "-m", "finestep_fast.train", *words]
        subprocess.run(
            [*command, *([] if "resume" in words[0] else [f"output={folder}"])], check=True
        )
    return folder


def _table(runs: dict[tuple[str, int], Path]) -> Table:
    table = Table(
        title="Quickstart: greedy dev answers before -> after the updates", title_justify="left"
    )
    for name in (
        "preset",
        "seed",
        "EX %",
        "tool calls",
        "redundant %",
        "malformed %",
        "tokens written",
    ):
        table.add_column(name, justify="left" if name == "preset" else "right")
    for preset in dict.fromkeys(preset for preset, _ in runs):
        reports = {
            seed: _evaluations(path) for (name, seed), path in runs.items() if name == preset
        }
        for seed, (before, after) in reports.items():
            table.add_row(preset, str(seed), *_cells(before, after))
        befores, afters = zip(*reports.values(), strict=True)
        means = [
            {key: _mean([part[key] for part in parts]) for key in befores[0]}
            for parts in (befores, afters)
        ]
        table.add_row(preset, "mean", *_cells(*means), style="bold", end_section=True)
    return table


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the rates that have a denominator; None if none has."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _cells(before: dict[str, float | None], after: dict[str, float | None]) -> list[str]:
    columns = (
        ("ex", 100, 1),
        ("calls", 1, 2),
        ("redundant_rate", 100, 1),
        ("malformed_rate", 100, 1),
        ("policy_tokens", 1, 1),
    )

    def shown(value: float | None, scale: int, digits: int) -> str:
        return "-" if value is None else f"{scale * value:.{digits}f}"

    return [
        f"{shown(before[key], scale, digits)} -> {shown(after[key], scale, digits)}"
        for key, scale, digits in columns
    ]


def _evaluations(folder: Path) -> tuple[dict[str, float | None], dict[str, float | None]]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report["evaluations"]["before"], report["evaluations"]["final"]


def _draw(path: Path, runs: dict[tuple[str, int], Path], presets: Sequence[str]) -> None:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("ex", "answers that are right (EX of sampled rollouts)"),
        ("calls", "tool calls per question"),
    )
    for axis, (key, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for preset, color in zip(presets, _COLORS, strict=False):
            curves = [
                _smoothed(_metrics(path), key) for (name, _), path in runs.items() if name == preset
            ]
            for curve in curves:
                axis.plot(range(1, len(curve) + 1), curve, color=color, alpha=0.25, linewidth=1)
            average = [mean(values) for values in zip(*curves, strict=True)]
            axis.plot(range(1, len(average) + 1), average, color=color, linewidth=2.2, label=preset)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _smoothed(records: Sequence[dict[str, Any]], key: str) -> list[float]:
    values = [nan if record[key] is None else float(record[key]) for record in records]
    return [mean(values[max(0, index + 1 - _WINDOW) : index + 1]) for index in range(len(values))]


if __name__ == "__main__":
    main()

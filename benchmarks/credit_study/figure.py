"""Draw the study: what was learnt, and what the gradients say of why.

    python -m benchmarks.credit_study.figure docs/credit_study.png

Above, EX on dev over the updates, the mean of the reported seeds that all drawn arms have. Below,
how much farther than plain policy gradient an update gets at equal KL, see `gradients`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.credit_study.report import curve, evaluated_after, reported
from benchmarks.credit_study.runs import Cell, done_cells, records
from benchmarks.harness import RESULTS

_COLORS = ("#c8553d", "#0b6e99", "#5b8c5a", "#7a5c99", "#b08900", "#555555")


def main() -> None:
    """Draw what the results hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--arms", nargs="+", default=["grpo", "finestep", "value_gold"])
    parser.add_argument("--world", default="explore")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS / "credit_study.jsonl")
    parser.add_argument("--gradients", type=Path, default=RESULTS / "credit_gradients.jsonl")
    options = parser.parse_args()
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1)
    done = done_cells(options.results)
    runs = compared(done, options.world, options.prompts, options.arms)
    _draw_curves(above, runs)
    policies = [
        record
        for record in records(options.gradients)
        if (record["world"], record["prompts"]) == (options.world, options.prompts)
    ]
    _draw_progress(below, policies, options.arms)
    figure.savefig(options.picture, dpi=130)
    print(f"picture: {options.picture}")


def compared(
    done: Mapping[Cell, dict[str, Any]], world: str, prompts: int, arms: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return each arm's records of the reported seeds that all arms have, in the same order."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in arms}
    for cell, record in sorted(reported(done).items()):
        if (cell.world, cell.prompts) == (world, prompts) and cell.arm in by_arm:
            by_arm[cell.arm][cell.seed] = record
    common = sorted(set.intersection(*(set(seeds) for seeds in by_arm.values())))
    return {arm: [seeds[seed] for seed in common] for arm, seeds in by_arm.items()}


def _draw_curves(axes: Axes, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    for (arm, arm_records), color in zip(runs.items(), _COLORS, strict=False):
        if not arm_records:
            continue
        places = evaluated_after(arm_records[0])
        curves = [curve(record) for record in arm_records]
        for values in curves:
            axes.plot(places, [100 * value for value in values], color=color, alpha=0.15, lw=0.8)
        means = [100 * mean(values) for values in zip(*curves, strict=True)]
        axes.plot(places, means, color=color, lw=2, label=f"{arm} ({len(curves)} seeds)")
    axes.set(xlabel="updates", ylabel="EX on dev, %")
    axes.legend(frameon=False)


def _draw_progress(axes: Axes, policies: Sequence[dict[str, Any]], arms: Sequence[str]) -> None:
    width = 0.8 / max(len(policies), 1)
    for number, record in enumerate(policies):
        for key, alpha in (("progress", 0.35), ("steady_progress", 1.0)):
            axes.bar(
                [place + (number - (len(policies) - 1) / 2) * width for place in range(len(arms))],
                [record["arms"][arm][key] for arm in arms],
                width=0.9 * width * (1.0 if key == "progress" else 0.5),
                color=_COLORS[number],
                alpha=alpha,
                label=f"{record['label']}, {'alone' if key == 'progress' else 'with momentum'}",
            )
    axes.axhline(1, color="black", lw=0.6)
    axes.set_xticks(range(len(arms)), arms)
    axes.set_ylabel("progress of an update, equal KL")
    axes.legend(frameon=False, fontsize=7, ncols=max(len(policies), 1))


if __name__ == "__main__":
    main()

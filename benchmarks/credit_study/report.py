"""The study's tables: means over seeds, and differences to the baseline seed by seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.credit_study.arms import ARMS, BASELINE, CHOOSING_SEEDS, KL_BOUNDS
from benchmarks.credit_study.runs import Cell, is_usable

_RESAMPLES = 10_000

Records = Mapping[Cell, dict[str, Any]]


def best_bounds(done: Records) -> dict[tuple[str, int, str], float]:
    """Return the KL bound of each (world, prompts, arm): the best mean area on the choosing seeds.

    Where an arm has no run there, it takes the bound of the baseline; where that has none, the
    middle one.
    """
    areas: dict[tuple[str, int, str], dict[float, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for cell, record in done.items():
        if cell.seed in CHOOSING_SEEDS:
            areas[cell.world, cell.prompts, cell.arm][cell.max_kl].append(area(record))
    best = {
        place: max(by_bound, key=lambda bound: mean(by_bound[bound]))
        for place, by_bound in areas.items()
    }
    places = {(cell.world, cell.prompts) for cell in done}
    fallback: dict[tuple[str, int, str], float] = defaultdict(lambda: KL_BOUNDS[1])
    for world, prompts in places:
        for arm in ARMS:
            bound = best.get((world, prompts, arm)) or best.get((world, prompts, BASELINE))
            if bound is not None:
                fallback[world, prompts, arm] = bound
    return fallback


def reported(done: Records) -> dict[Cell, dict[str, Any]]:
    """Return what tables and pictures may show: no choosing seed, no unusable warm start."""
    return {
        cell: record
        for cell, record in done.items()
        if cell.seed not in CHOOSING_SEEDS and is_usable(cell.world, record["dev"]["before"]["ex"])
    }


def evaluated_after(record: dict[str, Any]) -> list[int]:
    """Return after how many updates each point of `curve` was measured."""
    names = [name for name in record["dev"] if name.startswith("update_")]
    return [0, *sorted(int(name[7:]) for name in names), record["cell"]["updates"]]


def curve(record: dict[str, Any], key: str = "ex") -> list[float]:
    """Return a rate on dev before, between and after the updates."""
    dev = record["dev"]
    between = [f"update_{number}" for number in evaluated_after(record)[1:-1]]
    return [dev[name][key] for name in ("before", *between, "final")]


def area(record: dict[str, Any]) -> float:
    """Return the mean of EX on dev over the updates (trapezoids)."""
    values = curve(record)
    return float(np.trapezoid(values)) / (len(values) - 1)


def sampled(record: dict[str, Any]) -> float:
    """Return the mean EX of the rollouts of the last third of the updates.

    They are on training databases, and on questions that no earlier update asked.
    """
    values = record["sampled"]["ex"]
    return mean(values[-max(len(values) // 3, 1) :])


def updates_to(record: dict[str, Any], target: float) -> float:
    """Return after how many updates EX on dev first reached a target; infinity if never.

    Between two evaluations EX is taken to change evenly.
    """
    numbers, values = evaluated_after(record), curve(record)
    if values[0] >= target:
        return 0.0
    for place in range(1, len(values)):
        before, after = values[place - 1], values[place]
        if after >= target:
            share = (target - before) / (after - before)
            return numbers[place - 1] + share * (numbers[place] - numbers[place - 1])
    return math.inf


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean, of resampled seeds."""
    values = np.array(differences)
    picks = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def print_tables(done: Records) -> None:
    """Print one table for each world and number of prompts, without the choosing seeds.

    Runs from a warm start that the study does not ask for are left out; see `WARM_EX`.

    "Updates to" is the median over seeds of the updates after which EX on dev had reached the
    baseline's mean at the end; a dash where half of the seeds never did. "Sampled" is the mean EX
    of the rollouts that the last third of the updates learnt from. Differences are between runs of
    one seed that began with the same warm policy.
    """
    console = Console(width=240)
    shown = reported(done)
    others = sum(cell.seed not in CHOOSING_SEEDS for cell in done) - len(shown)
    if others:
        console.print(f"left out for the EX of their warm policy: {others} runs")
    for place in sorted({(cell.world, cell.prompts, cell.updates) for cell in shown}):
        console.print(_table(place, shown))


def _table(place: tuple[str, int, int], shown: Records) -> Table:
    world, prompts, updates = place
    title = f"{world}, {prompts} prompts an update, {updates} updates"
    table = Table(title=title, title_justify="left")
    for name in (
        "arm",
        "seeds",
        "max KL",
        "warm EX",
        "EX dev",
        "EX test",
        "area",
        "sampled",
        "calls",
        "redundant %",
        "no answer %",
        "updates to",
        "tokens",
        "lost",
        f"EX test - {BASELINE}",
        "area - same",
        "sampled - same",
        "calls - same",
    ):
        table.add_column(name, justify="left" if name == "arm" else "right")
    by_arm: dict[tuple[str, float], dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell, record in shown.items():
        if (cell.world, cell.prompts, cell.updates) == place:
            by_arm[cell.arm, cell.max_kl][cell.seed] = record
    baselines = [seeds for (arm, _), seeds in by_arm.items() if arm == BASELINE]
    baseline = max(baselines, key=len, default={})
    target = mean(r["dev"]["final"]["ex"] for r in baseline.values()) if baseline else math.inf
    order = list(ARMS)
    for (arm, max_kl), seeds in sorted(
        by_arm.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
    ):
        table.add_row(arm, str(len(seeds)), f"{max_kl:g}", *_cells(seeds, baseline, target))
    return table


def _cells(
    seeds: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]], target: float
) -> list[str]:
    records = list(seeds.values())
    final = [record["test"] for record in records]

    def shown(key: str, scale: float, digits: int) -> str:
        known = [rates[key] for rates in final if rates.get(key) is not None]
        return f"{scale * mean(known):.{digits}f}" if known else "-"

    needed = median(updates_to(record, target) for record in records)
    lost = sum(record["dev"]["final"]["ex"] < record["dev"]["before"]["ex"] for record in records)
    return [
        f"{100 * mean(record['dev']['before']['ex'] for record in records):.1f}",
        f"{100 * mean(record['dev']['final']['ex'] for record in records):.1f}",
        shown("ex", 100, 1),
        f"{100 * mean(area(record) for record in records):.1f}",
        f"{100 * mean(sampled(record) for record in records):.1f}",
        shown("calls", 1, 2),
        shown("redundant_rate", 100, 1),
        shown("unsubmitted_rate", 100, 1),
        f"{needed:.0f}" if math.isfinite(needed) else "-",
        shown("policy_tokens", 1, 0),
        str(lost),
        _difference(seeds, baseline, lambda record: 100 * record["test"]["ex"], 1),
        _difference(seeds, baseline, lambda record: 100 * area(record), 1),
        _difference(seeds, baseline, lambda record: 100 * sampled(record), 1),
        _difference(seeds, baseline, lambda record: record["test"]["calls"], 2),
    ]


def _difference(
    seeds: dict[int, dict[str, Any]],
    baseline: dict[int, dict[str, Any]],
    of: Any,
    digits: int,
) -> str:
    # A warm start that was trained again, on another processor, is another policy.
    common = [
        seed
        for seed in sorted(seeds.keys() & baseline.keys())
        if seeds[seed]["dev"]["before"] == baseline[seed]["dev"]["before"]
    ]
    if not common or seeds is baseline:
        return "-"
    differences = [of(seeds[seed]) - of(baseline[seed]) for seed in common]
    low, high = interval(differences)
    return f"{mean(differences):+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"

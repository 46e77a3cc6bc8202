"""Run what is missing of the study, or print its tables."""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.credit_study.arms import (
    ARMS,
    CHOOSING_SEEDS,
    KL_BOUNDS,
    PROMPTS,
    REPORTED_SEEDS,
    WORLDS,
)
from benchmarks.credit_study.report import best_bounds, print_tables
from benchmarks.credit_study.runs import (
    Cell,
    done_cells,
    is_usable,
    records,
    run,
    run_elsewhere,
    warm_ex,
    warm_start,
)
from benchmarks.harness import RESULTS

_RESULTS = RESULTS / "credit_study.jsonl"


def main() -> None:
    """Read the command line and do as it says."""
    parser = argparse.ArgumentParser(prog="benchmarks.credit_study", description=__doc__)
    parser.add_argument(
        "what",
        choices=["choose", "run", "elsewhere", "table"],
        help="choose the KL bound of each arm, run the reported seeds, let the agents that are "
        "done answer the questions of --data, print what is there",
    )
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--prompts", nargs="+", type=int, default=list(PROMPTS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the study")
    parser.add_argument(
        "--warm-starts",
        type=int,
        default=len(REPORTED_SEEDS),
        help="how many the seeds share; a seed takes number (seed mod this), "
        "a choosing seed its own",
    )
    parser.add_argument("--max-kl", type=float, help="for all arms, instead of the chosen bounds")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="folders, for elsewhere")
    parser.add_argument("--root", type=Path, default=Path("runs/credit_study"))
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.what == "table":
        print_tables(done_cells(options.results))
        return
    if options.what == "elsewhere":
        _elsewhere(options)
        return
    cells = [cell for cell in _planned(options) if cell not in done_cells(options.results)]
    print(f"{len(cells)} runs to do")
    os.nice(10)  # beside other work
    warm = list(dict.fromkeys((cell.world, cell.warm) for cell in cells))
    writing = threading.Lock()

    def do(cell: Cell) -> None:
        record = run(cell, options.root, learning_rate=options.learning_rate)
        with writing, options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{cell.name}: test EX {record['test']['ex']:.3f}", flush=True)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda place: warm_start(place[0], place[1], options.root), warm))
        left_out = set()
        for world, number in warm:
            ex = warm_ex(world, number, options.root)
            if not is_usable(world, ex):
                left_out.add((world, number))
                print(f"{world}, warm start {number}: EX {ex:.3f}; its seeds are left out")
        list(pool.map(do, [cell for cell in cells if (cell.world, cell.warm) not in left_out]))


def _elsewhere(options: argparse.Namespace) -> None:
    results = options.results.with_stem(f"{options.results.stem}_elsewhere")
    known = {(Cell(**record["cell"]), record["data"]) for record in records(results)}
    cells = [
        cell
        for cell in done_cells(options.results)
        if (cell.arm in options.arms and cell.world in options.worlds)
        and (cell.prompts in options.prompts and cell.seed in (options.seeds or REPORTED_SEEDS))
    ]
    os.nice(10)
    with (
        ThreadPoolExecutor(options.workers) as pool,
        results.open("a", encoding="utf-8") as file,
    ):
        jobs = [(cell, data) for data in options.data for cell in cells]
        jobs = [(cell, data) for cell, data in jobs if (cell, data.name) not in known]
        for record in pool.map(lambda job: run_elsewhere(job[0], options.root, job[1]), jobs):
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(record["cell"]["arm"], record["cell"]["seed"], record["data"], record["rates"])


def _planned(options: argparse.Namespace) -> Iterable[Cell]:
    """Yield the runs seed by seed, so that what is done is always comparable."""
    choosing = options.what == "choose"
    seeds = options.seeds or (CHOOSING_SEEDS if choosing else REPORTED_SEEDS)
    bounds = best_bounds(done_cells(options.results))
    for world in options.worlds:
        for prompts in options.prompts:
            for seed in seeds:
                for arm in options.arms:
                    if choosing:
                        chosen: tuple[float, ...] = KL_BOUNDS
                    else:
                        chosen = (options.max_kl or bounds[world, prompts, arm],)
                    for max_kl in chosen:
                        # A choosing seed has its own: its dev questions are no reported ones.
                        warm = seed if choosing else seed % options.warm_starts
                        yield Cell(world, prompts, arm, warm, seed, max_kl, options.updates)


if __name__ == "__main__":
    main()

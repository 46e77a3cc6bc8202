"""Check, then time: implementations side by side in one run, interleaved, medians and ratios.

Nothing is asserted about speed here; a wrong result is an error and is never timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

_RESULTS = Path(__file__).parent / "results"


@dataclass
class Case:
    """One shape, with every implementation that can take it.

    Attributes:
        name: of the shape.
        runs: implementation -> what is timed.
        check: called with each implementation's name before it is timed; raises if it is wrong.
        moved_bytes: what must be read and written at the least; None if that says nothing.
        absent: implementation -> why it is not here.
    """

    name: str
    runs: Mapping[str, Callable[[], object]]
    check: Callable[[str], None]
    moved_bytes: int | None = None
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """One implementation on one shape."""

    case: str
    implementation: str
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    repeats: int
    gigabytes_per_second: float | None


def options(description: str) -> argparse.ArgumentParser:
    """The words that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--seconds", type=float, default=6.0, help="time per shape")
    parser.add_argument(
        "--save", metavar="NAME", help="also write benchmarks/results/NAME.{json,md}"
    )
    return parser


def measured(case: Case, *, device: torch.device, seconds: float, most: int = 200) -> list[Timing]:
    """Check every implementation, then time them in turn until the time is up."""
    for name, run in case.runs.items():
        run()
        case.check(name)
    times: dict[str, list[float]] = {name: [] for name in case.runs}
    end = time.perf_counter() + seconds
    for turn in range(most):
        if turn >= 5 and time.perf_counter() > end:
            break
        for name, run in case.runs.items():
            _wait(device)
            begin = time.perf_counter()
            run()
            _wait(device)
            times[name].append(1e3 * (time.perf_counter() - begin))
    return [_timing(case, name, values) for name, values in times.items()]


def report(
    title: str, baseline: str, cases: list[Case], arguments: argparse.Namespace
) -> list[Timing]:
    """Measure all cases, print a table and a JSON line, and keep both if asked to."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    table = Table(title=title, title_justify="left")
    for column in ("shape", "implementation", "median ms", "min .. max", f"x {baseline}", "GB/s"):
        table.add_column(
            column, justify="left" if column in ("shape", "implementation") else "right"
        )
    timings: list[Timing] = []
    for case in cases:
        rows = measured(case, device=device, seconds=arguments.seconds)
        base = next(row.median_ms for row in rows if row.implementation == baseline)
        for row in rows:
            table.add_row(*_cells(row, base))
        for name, reason in case.absent.items():
            table.add_row(case.name, name, "-", reason, "-", "-")
        table.add_section()
        timings += rows
    console = Console(width=110, record=True)
    console.print(table)
    line = json.dumps({**_machine(device), "timings": [asdict(row) for row in timings]})
    print(line)
    if arguments.save:
        _RESULTS.mkdir(exist_ok=True)
        (_RESULTS / f"{arguments.save}.json").write_text(line + "\n", encoding="utf-8")
        text = console.export_text()
        (_RESULTS / f"{arguments.save}.md").write_text(f"```text\n{text}```\n", encoding="utf-8")
    return timings


def _timing(case: Case, name: str, values: list[float]) -> Timing:
    middle = median(values)
    rate = case.moved_bytes / middle / 1e6 if case.moved_bytes is not None else None
    return Timing(case.name, name, middle, min(values), max(values), len(values), rate)


def _cells(row: Timing, base: float) -> tuple[str, ...]:
    rate = "-" if row.gigabytes_per_second is None else f"{row.gigabytes_per_second:.1f}"
    spread = f"{row.fastest_ms:.3g} .. {row.slowest_ms:.3g}"
    times = f"{base / row.median_ms:.2f}"
    return row.case, row.implementation, f"{row.median_ms:.3g}", spread, times, rate


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _machine(device: torch.device) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    return {
        "commit": commit.stdout.strip() or None,
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

"""Check, then time: implementations side by side in one run, interleaved, medians and ratios.

Nothing is asserted about speed here; a wrong result is an error and is never timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import finestep_fast as ff
from benchmarks.counts import Counts, counted

RESULTS = Path(__file__).parent / "results"


class Floor(NamedTuple):
    """The least that must be moved through memory, and a run that moves as fast as it can."""

    bytes_per_token: float
    """What must be read and written for a policy token."""
    num_policy_tokens: int
    run: str
    """The name of the run of the case that only moves memory."""
    run_bytes: int
    """How much that run moves."""


class Work(NamedTuple):
    """The arithmetic that cannot be left out, and a run that does nothing else."""

    operations: float
    """Floating point operations."""
    run: str
    """The name of the run of the case that does them alone."""


@dataclass
class Case:
    """One shape, with every implementation that can take it."""

    name: str
    """The name of the shape."""
    runs: Mapping[str, Callable[[], object]]
    """Implementation -> what is timed."""
    check: Callable[[str], None]
    """Called with each implementation's name before it is timed; raises if it is wrong."""
    absent: dict[str, str] = field(default_factory=dict)
    """Implementation -> why it is not here."""
    floor: Floor | None = None
    """What must be moved; None if that says nothing."""
    counting: bool = False
    """Whether operators, allocations and launches are counted."""
    work: Work | None = None
    """What must be calculated; None if that says nothing."""
    prepare: Callable[[], object] = lambda: None
    """Called before each run, outside the time that is taken."""


@dataclass(frozen=True)
class Timing:
    """One implementation on one shape."""

    case: str
    implementation: str
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    repeats: int
    times_baseline: float
    """The median of the baseline divided by this median: above 1 is faster."""
    bytes_per_token: float | None
    """What the run that only moves memory would have moved in this time, per policy token."""
    floor_bytes_per_token: float | None
    counts: Counts | None
    gflops: float | None = None
    """The needed operations per nanosecond."""
    times_work: float | None = None
    """The median divided by that of the run which does the needed operations alone."""


def options(description: str) -> argparse.ArgumentParser:
    """Return the options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--seconds", type=float, default=6.0, help="time per shape")
    parser.add_argument(
        "--save",
        action="store_true",
        help="add the line of JSON to benchmarks/results/<benchmark>.<device>.jsonl",
    )
    return parser


def own_impls(device: torch.device) -> dict[str, str | None]:
    """Return our compiled implementations: name -> None, or why tensors of a device are not for it.

    Interpreted kernels are not timed.
    """
    states = ff.available_impls()
    return {
        impl: str(states[impl])
        if states[impl] is not True
        else (None if device.type == device_type else f"not for {device.type}")
        for impl, device_type in {"cpp": "cpu", "triton": "cuda"}.items()
    }


def measured(case: Case, *, baseline: str, device: torch.device, seconds: float) -> list[Timing]:
    """Check every implementation, then time them in turn until the time is up; 5 turns at least.

    Every turn has an order of its own, for a run pays for the caches that the one before left.
    """
    counts: dict[str, Counts] = {}
    for name, run in case.runs.items():
        case.prepare()
        run()
        case.check(name)
        if case.counting:
            case.prepare()
            counts[name] = counted(run, device)
    times: dict[str, list[float]] = {name: [] for name in case.runs}
    order, dice = list(case.runs), random.Random(0)
    end = time.perf_counter() + seconds
    for turn in range(1000):
        if turn >= 5 and time.perf_counter() > end:
            break
        dice.shuffle(order)
        for name in order:
            case.prepare()
            _wait(device)
            begin = time.perf_counter()
            case.runs[name]()
            _wait(device)
            times[name].append(1e3 * (time.perf_counter() - begin))
    base = median(times[baseline])
    return [
        Timing(
            case=case.name,
            implementation=name,
            median_ms=median(values),
            fastest_ms=min(values),
            slowest_ms=max(values),
            repeats=len(values),
            times_baseline=base / median(values),
            bytes_per_token=_bytes_per_token(case.floor, name, times, counts),
            floor_bytes_per_token=None if case.floor is None else case.floor.bytes_per_token,
            counts=counts.get(name),
            gflops=None if case.work is None else 1e-6 * case.work.operations / median(values),
            times_work=None if case.work is None else median(values) / median(times[case.work.run]),
        )
        for name, values in times.items()
    ]


def report(
    title: str,
    baseline: str,
    cases: Iterable[Case],
    arguments: argparse.Namespace,
    *,
    notes: Mapping[str, Any] | None = None,
) -> list[Timing]:
    """Measure all cases, print a table and a line of JSON, and keep the line if asked to.

    Args:
        title: What is measured; what stands before a comma names the file of results.
        baseline: The implementation that the others are compared with.
        cases: The shapes; made one by one where they are an iterator.
        arguments: As `options` parses them.
        notes: What else belongs into the line: name -> value.

    Returns:
        A timing for each implementation on each shape.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rows_of_case: list[list[Timing]] = []
    absent: dict[str, str] = {}
    for case in cases:
        absent.update(case.absent)
        rows_of_case.append(
            measured(case, baseline=baseline, device=device, seconds=arguments.seconds)
        )
    timings = [row for rows in rows_of_case for row in rows]
    columns = [column for column in _COLUMNS if any(column.cell(row) for row in timings)]
    table = Table(title=title, title_justify="left")
    for name, justify in (("shape", "left"), ("implementation", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for column in columns:
        table.add_column(column.heading, justify="right")
    for rows in rows_of_case:
        for number, row in enumerate(rows):
            cells = [column.cell(row) for column in columns]
            table.add_row("" if number else row.case, row.implementation, *cells)
        table.add_section()
    Console(width=150).print(table)
    print(f"times baseline: how many times as fast as {baseline}")
    for name, reason in absent.items():
        print(f"left out: {name}: {reason}")
    line = {
        **machine(device),
        "absent": absent,
        **(notes or {}),
        "baseline": baseline,
        "timings": [_rounded(asdict(row)) for row in timings],
    }
    print(json.dumps(line))
    if arguments.save:
        save(line, benchmark=_slug(title.partition(",")[0]))
    return timings


def save(line: Mapping[str, Any], *, benchmark: str) -> Path:
    """Add a line of JSON to the results of a benchmark on this device; return the file."""
    path = RESULTS / f"{benchmark}.{_slug(line['device'])}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return path


def machine(device: torch.device) -> dict[str, Any]:
    """Return commit, device and versions: what a number means nothing without."""
    on_gpu = device.type == "cuda"
    return {
        "commit": _commit(),
        "device": torch.cuda.get_device_name() if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _bytes_per_token(
    floor: Floor | None, name: str, times: dict[str, list[float]], counts: dict[str, Counts]
) -> float | None:
    """Take the kernels' time alone where it is known: on a GPU the host moves no memory."""
    if floor is None:
        return None

    def milliseconds(run: str) -> float:
        known = counts[run].device_ms if run in counts else None
        return median(times[run]) if known is None else known

    bytes_per_ms = floor.run_bytes / milliseconds(floor.run)
    return milliseconds(name) * bytes_per_ms / floor.num_policy_tokens


class _Column(NamedTuple):
    """A column of the table, left out where every cell is empty."""

    heading: str
    cell: Callable[[Timing], str]


def _seen(attribute: str, scale: float = 1.0) -> Callable[[Timing], str]:
    def cell(row: Timing) -> str:
        value = None if row.counts is None else getattr(row.counts, attribute)
        if value is None:
            return ""
        return str(value) if isinstance(value, int) and scale == 1 else f"{value * scale:.3g}"

    return cell


def _moved(row: Timing) -> str:
    if row.bytes_per_token is None:
        return ""
    return f"{row.bytes_per_token:.0f} ({row.floor_bytes_per_token:.0f})"


_COLUMNS = (
    _Column("median ms", lambda row: f"{row.median_ms:.3g}"),
    _Column("min .. max", lambda row: f"{row.fastest_ms:.3g} .. {row.slowest_ms:.3g}"),
    _Column("times baseline", lambda row: f"{row.times_baseline:.2f}"),
    _Column("bytes/token (floor)", _moved),
    _Column("GFLOP/s", lambda row: "" if row.gflops is None else f"{row.gflops:.0f}"),
    _Column("x work", lambda row: "" if row.times_work is None else f"{row.times_work:.2f}"),
    _Column("operators", _seen("operators")),
    _Column("allocations", _seen("allocations")),
    _Column("launches", _seen("launches")),
    _Column("syncs", _seen("syncs")),
    _Column("device ms", _seen("device_ms")),
    _Column("peak MB", _seen("peak_bytes", 1e-6)),
)


def _rounded(value: Any) -> Any:
    """Round each number to four digits: more says nothing about a time."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _commit() -> str | None:
    """Return the commit of the checkout, marked where anything but results was changed since."""

    def git(*words: str) -> str:
        command = ["git", *words]
        folder = Path(__file__).parent
        return subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("diff", "--name-only", "HEAD", "--", ":/", ":!results")
    return f"{commit}-changed" if changed else commit or None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")

"""What a person sees: progress on standard error while it runs, tables on standard output after.

Numbers come from `summary`; nothing is computed here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Protocol

from finestep_fast.errors import BuildError
from finestep_fast.eval.summary import Scores, Summary
from finestep_fast.output import output_console

# Where standard error is no terminal, this many lines are printed instead of a bar.
LINES = 10
NOTHING = "\N{EN DASH}"
WIDTH = 160  # of the tables, where standard output is no terminal


class Progress(Protocol):
    """How far things are."""

    def advance(self, count: int) -> None:
        """Go on by so many questions."""


def require_rich() -> None:
    """Raise BuildError where the tables cannot be drawn."""
    if find_spec("rich") is None:
        raise BuildError(
            "the table needs rich, which is not installed: pip install 'finestep_fast[eval]', "
            "or ask for --json"
        )


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Show progress on standard error: a bar on a terminal, else a few lines."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield LineProgress(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("questions"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield BarProgress(bars, total)


class BarProgress:
    """A bar that moves."""

    def __init__(self, bars: Any, total: int) -> None:
        self._bars, self._task = bars, bars.add_task("", total=total)

    def advance(self, count: int) -> None:
        """Go on by so many questions."""
        self._bars.update(self._task, advance=count)


class LineProgress:
    """A line now and then."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0

    def advance(self, count: int) -> None:
        """Go on by so many questions."""
        before = self._done
        self._done += count
        if self._done * LINES // self._total > before * LINES // self._total:
            with suppress(OSError):  # its reader is gone; the result still counts
                print(f"questions: {self._done}/{self._total}", file=sys.stderr, flush=True)


def show(title: str, found: Summary, remarks: Sequence[str]) -> None:
    """Print the tables of a summary and the remarks on it."""
    from rich.table import Table

    console = output_console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    overall = found["overall"]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in column_names(overall):
        table.add_column(name, justify="right")
    table.add_row("all", *cells(overall))
    for groups in (found["by_difficulty"], found["by_database"]):
        if len(groups) > 1:
            table.add_section()
            for name, numbers in groups.items():
                table.add_row(name or "(none)", *cells(numbers))
    console.print(table)
    for name, statuses in found["statuses"].items():
        listed = ", ".join(f"{status} {count}" for status, count in statuses.items())
        console.print(f"status under {name}: {listed}", markup=False, soft_wrap=True)
    for remark in remarks:
        console.print(f"note: {remark}", markup=False, soft_wrap=True)


def column_names(numbers: Scores) -> list[str]:
    """Return the heads of the columns for numbers of this kind."""
    heads = ["questions"]
    for name in numbers["ex"]:
        heads += [f"EX {name}", *(f"pass@{k}" for k in ks_shown(numbers, name))]
        heads += ["majority"] if "majority" in numbers else []
    return [*heads, "Soft-F1", *(["R-VES"] if "r_ves" in numbers else [])]


def ks_shown(numbers: Scores, semantics: str) -> list[str]:
    """Return the k of the columns pass@k; EX is pass@1 already."""
    return [k for k in numbers.get("pass_at", {}).get(semantics, {}) if k != "1"]


def cells(numbers: Scores) -> list[str]:
    """Return a row of the table: counts as they are, scores in percent, R-VES as BIRD prints it.

    A dash stands for an average over nothing.
    """
    shares: list[float | None] = []
    for name, value in numbers["ex"].items():
        shares += [value, *(numbers["pass_at"][name][k] for k in ks_shown(numbers, name))]
        shares += [numbers["majority"][name]] if "majority" in numbers else []
    shares.append(numbers["soft_f1"])
    row = [f"{share:.2%}" if share is not None else NOTHING for share in shares]
    if "r_ves" in numbers:
        score = numbers["r_ves"]
        row.append(f"{100 * score:.2f}" if score is not None else NOTHING)
    return [str(numbers["questions"]), *row]

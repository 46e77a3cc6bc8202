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
from finestep_fast.eval.summary import Summary
from finestep_fast.eval.tables import status_lines, tables
from finestep_fast.output import output_console

# Where standard error is no terminal, this many lines are printed instead of a bar.
LINES = 10
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
    from rich import table as rich_tables

    console = output_console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for number, table in enumerate(tables(found)):
        drawn = rich_tables.Table(title=None if number else title, title_justify="left")
        for place, name in enumerate(table.head):
            drawn.add_column(name, justify="right" if place else "left")
        for place, row in enumerate(table.rows):
            drawn.add_row(*row, end_section=table.head[-1] != "total" and place == 0)
        console.print(drawn)
    for line in (*status_lines(found), *(f"note: {remark}" for remark in remarks)):
        console.print(line, markup=False, soft_wrap=True)

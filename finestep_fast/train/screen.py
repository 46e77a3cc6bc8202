"""What a person sees: a bar per phase while it runs, a table at the end, a picture of the curves.

Numbers are taken from the run's logs and tallies; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# Where the output is no terminal, a phase prints this many lines instead of a bar.
_LINES = 10

_ROWS = (
    ("ex", "EX on dev", "{:.1%}"),
    ("calls", "tool calls per question", "{:.2f}"),
    ("redundant_rate", "redundant calls", "{:.1%}"),
    ("malformed_rate", "malformed steps", "{:.1%}"),
    ("silent_rate", "answers without a look", "{:.1%}"),
    ("policy_tokens", "tokens written per question", "{:.1f}"),
    ("seconds", "seconds for dev", "{:.1f}"),
)


class Bar(Protocol):
    """One phase's progress."""

    def advance(self, count: int, note: str = "") -> None:
        """Go on by `count`, and say how things stand."""


class Screen:
    """Writes to standard output; only one process of a run is given a live one.

    Args:
        live: whether anything is shown.
    """

    def __init__(self, *, live: bool) -> None:
        self.console = Console(quiet=not live, highlight=False)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
        """Show the progress of one phase."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console) as progress:
                task = progress.add_task(title, total=total, completed=done, note="")
                yield _LiveBar(progress, task)
        else:
            yield _LineBar(self, title, total, done)

    def table(self, title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
        """Print evaluations side by side, a column each."""
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in columns:
            table.add_column(name, justify="right")
        for key, label, form in _ROWS:
            table.add_row(label, *(form.format(values[key]) for values in columns.values()))
        self.console.print(table)


class _LiveBar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int, note: str = "") -> None:
        self._progress.update(self._task, advance=count)
        if note:
            self._progress.update(self._task, note=note)


class _LineBar:
    def __init__(self, screen: Screen, title: str, total: int, done: int) -> None:
        self._screen, self._title, self._total, self._done = screen, title, total, done

    def advance(self, count: int, note: str = "") -> None:
        before = self._done
        self._done += count
        if (
            self._done * _LINES // self._total > before * _LINES // self._total
            or self._done == self._total
        ):
            self._screen.say(f"{self._title}: {self._done}/{self._total} {note}".rstrip())


def draw_curves(path: Path, updates: Sequence[Mapping[str, Any]]) -> None:
    """Draw EX, tool calls and process reward of the training rollouts over updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("ex", "EX of training rollouts"),
        ("calls", "tool calls per question"),
        ("process_reward", "process reward per step"),
    )
    for axis, (key, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.plot([record["update"] for record in updates], [record[key] for record in updates])
        axis.set_title(title)
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)

"""What a person sees: a bar per phase while it runs, a table at the end, a picture of the curves.

Numbers are taken from the run's logs and tallies; nothing is computed here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from finestep_fast.output import lost_output, output_console
from finestep_fast.train import metrics

# Where the output is no terminal, a phase prints this many lines instead of a bar, and one more
# whenever nothing was said for so long.
_LINES = 10
_SILENCE_S = 20.0

_ROWS = (
    (metrics.EX, "EX on dev", "{:.1%}"),
    (metrics.CALLS, "tool calls per question", "{:.2f}"),
    (metrics.REDUNDANT_RATE, "redundant calls", "{:.1%}"),
    (metrics.MALFORMED_RATE, "malformed steps", "{:.1%}"),
    (metrics.SILENT_RATE, "answers without a look", "{:.1%}"),
    (metrics.POLICY_TOKENS, "tokens written per question", "{:.1f}"),
    (metrics.SECONDS, "seconds for dev", "{:.1f}"),
)


class Bar(Protocol):
    """One phase's progress."""

    def advance(self, count: int, note: str = "", *, tokens: int = 0) -> None:
        """Go on by `count` and by `tokens`, and say how things stand."""


class Screen:
    """Writes to standard output; only one process of a run is given a live one.

    Args:
        live: Whether anything is shown.
        on_lost: Called once with the reason why the output cannot be written any more; nothing is
            shown from then on.
    """

    def __init__(self, *, live: bool, on_lost: Callable[[str], None] = lambda reason: None) -> None:
        self.console = output_console(quiet=not live, highlight=False)
        self._on_lost = on_lost
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        self._print(text, markup=False, soft_wrap=True)

    @contextmanager
    def bar(
        self, title: str, total: int, *, done: int = 0, timed_lines_only: bool = False
    ) -> Iterator[Bar]:
        """Show the progress of one phase; of a phase within another below that one's.

        Where the output is no terminal, `timed_lines_only` leaves out the line per tenth.
        """
        if not self.console.is_terminal:
            yield _LineBar(self, title, total, done, timed_only=timed_lines_only)
        elif self._progress is not None:
            task = self._progress.add_task(title, total=total, completed=done, note="")
            try:
                yield _LiveBar(self._progress, task)
            finally:
                self._progress.remove_task(task)
        else:
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            try:
                with Progress(*columns, console=self.console) as self._progress:
                    task = self._progress.add_task(title, total=total, completed=done, note="")
                    yield _LiveBar(self._progress, task)
            finally:
                self._progress = None

    def table(self, title: str, columns: Mapping[str, Mapping[str, float | None]]) -> None:
        """Print evaluations side by side, a column each."""
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in columns:
            table.add_column(name, justify="right")
        for key, label, form in _ROWS:
            table.add_row(label, *(shown(values[key], form) for values in columns.values()))
        self._print(table)

    def _print(self, thing: str | Table, **how: Any) -> None:
        try:
            self.console.print(thing, **how)
        except OSError as error:
            self.console.quiet = True
            self._on_lost(lost_output(error))


class _LiveBar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task, self._tokens = progress, task, 0

    def advance(self, count: int, note: str = "", *, tokens: int = 0) -> None:
        self._progress.update(self._task, advance=count)
        self._tokens += tokens
        if tokens:
            note = f"{self._tokens} tokens"
        if note:
            self._progress.update(self._task, note=note)


class _LineBar:
    def __init__(
        self, screen: Screen, title: str, total: int, done: int, *, timed_only: bool
    ) -> None:
        self._screen, self._title, self._total, self._done = screen, title, total, done
        self._timed_only, self._note, self._tokens = timed_only, "", 0
        self._begin = self._said = time.monotonic()

    def advance(self, count: int, note: str = "", *, tokens: int = 0) -> None:
        before, now = self._done, time.monotonic()
        self._done += count
        self._tokens += tokens
        self._note = note or self._note
        tenth = count > 0 and (
            self._done * _LINES // self._total > before * _LINES // self._total
            or self._done == self._total
        )
        if (tenth and not self._timed_only) or now - self._said >= _SILENCE_S:
            spent = f"{self._tokens} tokens, {now - self._begin:.0f} s" if self._tokens else ""
            words = (f"{self._title}: {self._done}/{self._total}", self._note, spent)
            self._screen.say(" ".join(word for word in words if word))
            self._said = now


def shown(value: float | None, form: str) -> str:
    """Return a number as `form` says; a dash for a rate over nothing."""
    return "\N{EN DASH}" if value is None else form.format(value)


def update_note(record: Mapping[str, Any]) -> str:
    """Return what one update came to, in a few words."""
    words = [
        f"{word} {shown(record[key], '{:.2f}')}"
        for word, key in (
            ("EX", metrics.EX),
            ("calls", metrics.CALLS),
            ("reward", metrics.PROCESS_REWARD),
        )
    ]
    failed = record[metrics.FAILED]
    return "  ".join([*words, f"failed {failed:.0f}"] if failed else words)


def draw_curves(path: Path, updates: Sequence[Mapping[str, Any]]) -> None:
    """Draw EX, tool calls and process reward of the training rollouts over updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        (metrics.EX, "EX of training rollouts"),
        (metrics.CALLS, "tool calls per question"),
        (metrics.PROCESS_REWARD, "process reward per step"),
    )
    for axis, (key, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        values = [math.nan if record[key] is None else record[key] for record in updates]
        axis.plot([record[metrics.UPDATE] for record in updates], values)
        axis.set_title(title)
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)

"""Queries in a process of their own, which is ended when a query cannot be stopped otherwise.

No sandbox: it guards against what hangs or crashes, not against code that runs inside SQLite.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict, Unpack

from finestep_fast import _core
from finestep_fast.sql import subprocess_worker
from finestep_fast.sql.outcome import Row

RunReport = tuple[_core.QueryStatus, tuple[str, ...], tuple[Row, ...], bool, str, float, int, bool]
MatchReport = tuple[bool, _core.QueryStatus, str, float, _core.Verdict, float]

ERROR, TIMEOUT = _core.QueryStatus.error, _core.QueryStatus.timeout
DIFFERENT = _core.Verdict.different
ENDED = "stopped after its deadline, by ending the process that ran it"
CRASHED = "the process that ran the query crashed"


class EngineSettings(TypedDict):
    """The settings of a `_core.SqlEngine`."""

    threads: int
    max_connections: int
    gold_cache_bytes: int
    max_heap_bytes: int


class Limits(TypedDict):
    """What one query may take."""

    max_rows: int
    max_bytes: int
    timeout_s: float


class WorkerCrashedError(Exception):
    """The process ended without an answer."""


class SubprocessEngine:
    """What `_core.SqlEngine` does, done in a child process; calls take turns.

    Args:
        library: Path of the SQLite library.
        settings: The settings of the engine in the child process.
        grace_s: How long a query may outlive its deadline.
    """

    def __init__(self, library: str, settings: EngineSettings, grace_s: float) -> None:
        self._start = (library, settings)
        self._grace_s = grace_s
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._is_closed = False

    def run(
        self, jobs: list[tuple[str, str]], **limits: Unpack[Limits]
    ) -> tuple[list[RunReport | None], list[int]]:
        """Return what `_core.SqlEngine.run` returns; nothing hangs here."""
        with self._turn:
            reports: list[RunReport | None] = [None] * len(jobs)
            todo = list(range(len(jobs)))
            one_by_one = False
            while todo and not self._is_closed:
                places = todo[:1] if one_by_one else todo
                try:
                    found, hanging = self._ask("run", [jobs[i] for i in places], limits)
                except WorkerCrashedError:
                    if len(places) == 1 and not self._is_closed:
                        reports[places[0]] = (ERROR, (), (), False, CRASHED, 0.0, 0, False)
                    one_by_one = True
                else:
                    for place, report in zip(places, found, strict=True):
                        reports[place] = _run_report(report)
                    for i in hanging:
                        late_ms = self._late_ms(limits)
                        reports[places[i]] = (TIMEOUT, (), (), False, ENDED, late_ms, 0, False)
                todo = [i for i in todo if reports[i] is None]
            return reports, []

    def match(
        self,
        pairs: list[tuple[str, str, str]],
        ordered: list[bool] | None,
        comparison: _core.ComparisonSettings,
        *,
        early_exit: bool,
        utf8_only: bool,
        **limits: Unpack[Limits],
    ) -> tuple[list[MatchReport | None], list[int], list[tuple[bool, int]]]:
        """Return what `_core.SqlEngine.match` returns: nothing hangs, each pair has its report."""
        settings = {"early_exit": early_exit, "utf8_only": utf8_only, **limits}
        how = (_spelled(comparison), settings)

        def ask(places: list[int]) -> tuple[list[Any], list[int], list[tuple[bool, int]]]:
            flags = None if ordered is None else [ordered[i] for i in places]
            answer = self._ask("match", [pairs[i] for i in places], flags, *how)
            return answer[0], answer[1], answer[2]

        with self._turn:
            reports: list[MatchReport | None] = [None] * len(pairs)
            todo = list(range(len(pairs)))
            one_by_one = False
            while todo and not self._is_closed:
                places = todo[:1] if one_by_one else todo
                try:
                    found, unit_of_pair, hanging = ask(places)
                except WorkerCrashedError:
                    if len(places) == 1 and not self._is_closed:
                        gold_failed = self._gold_crashes(pairs[places[0]], how)
                        reports[places[0]] = (gold_failed, ERROR, CRASHED, 0.0, DIFFERENT, 0.0)
                    one_by_one = True
                else:
                    by_unit = [_match_report(report) for report in found]
                    for is_gold, unit in hanging:
                        late_ms = self._late_ms(limits)
                        by_unit[unit] = (is_gold, TIMEOUT, ENDED, late_ms, DIFFERENT, 0.0)
                    for place, unit in zip(places, unit_of_pair, strict=True):
                        reports[place] = by_unit[unit]
                todo = [i for i in todo if reports[i] is None]
            return reports, list(range(len(pairs))), []

    def counters(self) -> tuple[int, int, int]:
        """Return what `_core.SqlEngine.counters` returns, for the process that runs now."""
        with self._turn:
            try:
                queries_run, golds_reused, most_at_once = self._ask("counters")
            except WorkerCrashedError:
                return 0, 0, 0
            return queries_run, golds_reused, most_at_once

    def close(self) -> None:
        """End the process; a call that waits for it returns."""
        self._is_closed = True
        self._end()

    def _late_ms(self, limits: Limits) -> float:
        """Return how long a query ran that was ended with its process."""
        return 1e3 * (limits["timeout_s"] + self._grace_s)

    def _gold_crashes(self, pair: tuple[str, str, str], how: tuple[Any, ...]) -> bool:
        """Return whether the gold query of a pair crashes the process by itself."""
        path, _, gold = pair
        try:
            self._ask("match", [(path, gold, gold)], None, *how)
        except WorkerCrashedError:
            return True
        return False

    def _ask(self, what: str, *arguments: Any) -> Any:
        """Return the answer of the process; start it if need be, end it if a query hangs.

        Raises:
            WorkerCrashedError: It ended without an answer.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            subprocess_worker.send(process.stdin, (what, arguments))
            answer = subprocess_worker.received(process.stdout)
        except (BrokenPipeError, EOFError) as error:
            self._end()
            raise WorkerCrashedError from error
        except BaseException:
            self._end()
            raise
        if what != "counters" and answer[-1]:
            self._end()
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the process, started if there is none.

        Raises:
            WorkerCrashedError: The engine is closed.
        """
        if self._is_closed:
            raise WorkerCrashedError
        if os.getpid() != self._owner:  # after a fork the process belongs to our parent
            self._process, self._owner = None, os.getpid()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(Path(subprocess_worker.__file__)), _core.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches this process only
            )
            assert self._process.stdin is not None
            library, settings = self._start
            subprocess_worker.send(self._process.stdin, (library, settings, self._grace_s))
        return self._process

    def _end(self) -> None:
        """Kill the process if it is ours, and close its pipes."""
        process, self._process = self._process, None
        if process is not None and os.getpid() == self._owner:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # closing sends what was still buffered
                        pipe.close()


def _spelled(comparison: _core.ComparisonSettings) -> dict[str, Any]:
    """Return the settings as values that can be marshalled."""
    return {
        "semantics": comparison.semantics.name,
        "ordered": comparison.ordered,
        "float_tolerance": comparison.float_tolerance,
        "search_budget": comparison.search_budget,
    }


def _run_report(report: Any) -> RunReport | None:
    """Return a report of `run` with its status as the compiled module has it."""
    if report is None:
        return None
    status, *rest = report
    return (_core.QueryStatus[status], *rest)


def _match_report(report: Any) -> MatchReport | None:
    """Return a report of `match` with status and verdict as the compiled module has them."""
    if report is None:
        return None
    gold_failed, status, message, elapsed_ms, verdict, score = report
    ended, found = _core.QueryStatus[status], _core.Verdict[verdict]
    return gold_failed, ended, message, elapsed_ms, found, score

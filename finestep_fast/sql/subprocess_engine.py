"""Queries in a process of their own, which is ended when one of them cannot be stopped otherwise.

No sandbox: it guards against what hangs or crashes, not against code that runs inside SQLite.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from finestep_fast import _core
from finestep_fast.sql import fence_worker
from finestep_fast.sql.outcome import Row

RunReport = tuple[int, tuple[str, ...], tuple[Row, ...], bool, str, float, int, bool]
MatchReport = tuple[bool, int, str, float, int, float]
Settings = tuple[int, int, int, int]

ERROR, TIMEOUT = 1, 2  # numbers of the statuses of a query in the compiled module
ENDED = "stopped after its deadline, by ending the process that ran it"
CRASHED = "the process that ran the query crashed"


class WorkerCrashedError(Exception):
    """The process ended without an answer."""


class FencedEngine:
    """What `_core.SqlEngine` does, done in a child process; calls take turns.

    Args:
        library: Path of the SQLite library.
        settings: Threads, idle connections, bytes of the gold cache, bytes of SQLite's heap.
        grace_s: How long a query may outlive its deadline.
    """

    def __init__(self, library: str, settings: Settings, grace_s: float) -> None:
        self._start = (library, settings)
        self._grace_s = grace_s
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._is_closed = False

    def run(
        self, jobs: list[tuple[str, str]], *limits: float
    ) -> tuple[list[RunReport | None], list[int]]:
        """See `_core.SqlEngine.run`; nothing hangs here."""
        with self._turn:
            answers: list[RunReport | None] = [None] * len(jobs)
            todo = list(range(len(jobs)))
            one_by_one = False
            while todo and not self._is_closed:
                places = todo[:1] if one_by_one else todo
                try:
                    found, hanging = self._ask("run", [jobs[i] for i in places], *limits)
                except WorkerCrashedError:
                    if len(places) == 1 and not self._is_closed:
                        answers[places[0]] = (ERROR, (), (), False, CRASHED, 0.0, 0, False)
                    one_by_one = True
                else:
                    for place, answer in zip(places, found, strict=True):
                        answers[place] = answer
                    late_ms = 1e3 * (limits[-1] + self._grace_s)
                    for i in hanging:
                        answers[places[i]] = (TIMEOUT, (), (), False, ENDED, late_ms, 0, False)
                todo = [i for i in todo if answers[i] is None]
            return answers, []

    def match(
        self,
        pairs: list[tuple[str, str, str]],
        ordered: list[bool] | None,
        comparison: tuple[int, bool, float, int],
        early_exit: bool,
        utf8_only: bool,
        *limits: float,
    ) -> tuple[list[MatchReport | None], list[int], list[tuple[bool, int]]]:
        """See `_core.SqlEngine.match`; nothing hangs here, and every pair has its own report."""
        how = (comparison, early_exit, utf8_only, *limits)

        def ask(places: list[int]) -> tuple[list[Any], list[int], list[tuple[bool, int]]]:
            flags = None if ordered is None else [ordered[i] for i in places]
            answer = self._ask("match", [pairs[i] for i in places], flags, *how)
            return answer[0], answer[1], answer[2]

        with self._turn:
            answers: list[MatchReport | None] = [None] * len(pairs)
            todo = list(range(len(pairs)))
            one_by_one = False
            while todo and not self._is_closed:
                places = todo[:1] if one_by_one else todo
                try:
                    reports, unit_of_pair, hanging = ask(places)
                except WorkerCrashedError:
                    if len(places) == 1 and not self._is_closed:
                        gold_failed = self._gold_crashes(pairs[places[0]], how)
                        answers[places[0]] = (gold_failed, ERROR, CRASHED, 0.0, 0, 0.0)
                    one_by_one = True
                else:
                    late_ms = 1e3 * (limits[-1] + self._grace_s)
                    for is_gold, unit in hanging:
                        reports[unit] = (is_gold, TIMEOUT, ENDED, late_ms, 0, 0.0)
                    for place, unit in zip(places, unit_of_pair, strict=True):
                        answers[place] = reports[unit]
                todo = [i for i in todo if answers[i] is None]
            return answers, list(range(len(pairs))), []

    def counters(self) -> tuple[int, int, int]:
        """See `_core.SqlEngine.counters`; of the process that runs now."""
        with self._turn:
            try:
                queries_run, golds_reused, most_at_once = self._ask("counters")
            except WorkerCrashedError:
                return 0, 0, 0
            return queries_run, golds_reused, most_at_once

    def close(self) -> None:
        """Ends the process; a call that waits for it comes back."""
        self._is_closed = True
        self._end()

    def _gold_crashes(self, pair: tuple[str, str, str], how: tuple[Any, ...]) -> bool:
        path, _, gold = pair
        try:
            self._ask("match", [(path, gold, gold)], None, *how)
        except WorkerCrashedError:
            return True
        return False

    def _ask(self, what: str, *arguments: Any) -> Any:
        """The answer of the process, which is started if need be and ended if a query hangs.

        Raises:
            WorkerCrashedError: It ended without an answer.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            fence_worker.send(process.stdin, (what, arguments))
            answer = fence_worker.received(process.stdout)
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
        if self._is_closed:
            raise WorkerCrashedError
        if os.getpid() != self._owner:  # after a fork: the process is our parent's
            self._process, self._owner = None, os.getpid()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(Path(fence_worker.__file__)), _core.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us
            )
            assert self._process.stdin is not None
            library, settings = self._start
            fence_worker.send(self._process.stdin, (library, settings, self._grace_s))
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and os.getpid() == self._owner:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # closing sends what the process never got
                        pipe.close()

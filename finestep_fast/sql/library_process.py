"""A process of its own that runs on another copy of SQLite than this one.

A process has one copy, so that results of two copies can be compared only across two processes.
Not a guard against queries that hang: an `Engine` has that, and has it in here too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from finestep_fast.errors import BuildError, FinestepError
from finestep_fast.sql.library import Library, library

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class LibraryProcess:
    """A process on the copy of SQLite at `path`, in which functions can be called.

    A context manager; leaving it ends the process, whatever runs in it. Ctrl-C does not reach it.

    Args:
        path: A file, or "pip"; see `library`.

    Raises:
        BuildError: That copy cannot be used, or ended the process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        self._process = context.Process(target=serve, args=(other_end, self._path), daemon=True)
        resource_tracker.ensure_running()  # else `start` does it, and unblocks the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()  # which inherits the mask
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other_end.close()
        try:
            self._library: Library = self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def library(self) -> Library:
        """Return the copy that the process runs on."""
        return self._library

    def __enter__(self) -> LibraryProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def call(
        self, function: Callable[Given, Returned], *given: Given.args, **named: Given.kwargs
    ) -> Returned:
        """Return what a function returns there.

        Args:
            function: A function of a module; it is imported there by its name.
            given: What it is called with; these and what it returns are pickled.
            named: The same, by name.

        Raises:
            FinestepError: The function raised it.
            BuildError: The process ended before it answered.
        """
        with suppress(BrokenPipeError):  # it has ended: the answer says so
            self._pipe.send((function, given, named))
        returned: Returned = self._answer()
        return returned

    def _answer(self) -> Any:
        """Return what the process sends next; raise it if it is an error."""
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise BuildError(
                f"the process that runs on the SQLite library {self._path!r} ended with exit "
                f"status {self._process.exitcode} before it answered"
            ) from error
        if isinstance(answer, FinestepError):
            raise answer
        return answer


def serve(pipe: Connection, path: str) -> None:
    """Send which copy is used, then what each call returns, until there are no more."""
    with suppress(EOFError, BrokenPipeError):
        pipe.send(answered(library, path))
        while True:
            function, given, named = pipe.recv()
            pipe.send(answered(function, *given, **named))


def answered(function: Callable[..., object], *given: object, **named: object) -> object:
    """Return what a function returns, or the error that it raises on purpose."""
    try:
        return function(*given, **named)
    except FinestepError as error:
        return error

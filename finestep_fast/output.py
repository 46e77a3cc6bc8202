"""Standard output of the commands: it may be closed, full, or no longer read.

It says so in a sentence; each command decides what then becomes of the work.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from finestep_fast.errors import FinestepError, InputError

if TYPE_CHECKING:
    from rich.console import Console


class OutputError(FinestepError):
    """Standard output cannot be written any more."""


def open_output() -> None:
    """Make standard output ready: what its encoding lacks is shown as an escape.

    Raises:
        InputError: It is closed.
    """
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def lost_output(error: OSError) -> str:
    """Send what standard output still holds to nowhere; return a sentence on what happened."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return f"standard output cannot be written: {error.strerror or error}"


def output_console(**settings: Any) -> Console:
    """Return rich's console, made to leave a broken pipe to its caller, not to end the process."""
    from rich.console import Console

    class OutputConsole(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise  # it is called where the error is handled

    return OutputConsole(**settings)


@contextmanager
def written() -> Iterator[None]:
    """Allow writing to standard output, and report a failure.

    Raises:
        OutputError: It failed.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(lost_output(error)) from error

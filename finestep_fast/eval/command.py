"""The command from its options to its exit status: read, evaluate, keep, show."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from finestep_fast.env.question import load_questions
from finestep_fast.errors import InputError
from finestep_fast.eval.evaluation import Record, checked_semantics, evaluated
from finestep_fast.eval.predictions import load_predictions
from finestep_fast.eval.screen import progress, require_rich, show
from finestep_fast.eval.summary import remarks, summary
from finestep_fast.sql import Engine, library

INTERRUPTED = 130


def version_text() -> str:
    """The versions of this package and of SQLite, with the library's file and options."""
    used = library()
    return "\n".join(
        [
            f"finestep_fast {version('finestep_fast')}",
            f"SQLite {used.version}",
            f"path: {used.path}",
            f"options: {' '.join(used.compile_options)}",
        ]
    )


def evaluate(given: Namespace) -> int:
    """Evaluates what the options say; returns the exit status.

    Raises:
        InputError: An option or a file is unusable.
        BuildError: A table is asked for and cannot be drawn.
    """
    if not given.json:
        require_rich()
    semantics = checked_semantics([name.strip() for name in given.semantics.split(",")])
    if given.efficiency < 0:
        raise InputError(f"--efficiency is {given.efficiency}; expected a number of repeats >= 0")
    if given.limit is not None and given.limit < 1:
        raise InputError(f"--limit is {given.limit}; expected at least 1")
    if not given.databases.is_dir():
        raise InputError(f"databases {str(given.databases)!r}: is no folder")
    questions = load_questions(given.questions, given.databases)
    if not questions:
        raise InputError(f"questions {str(given.questions)!r}: holds no question")
    predicted = load_predictions(given.predictions, questions)[: given.limit]
    questions = questions[: given.limit]
    sqlite = library()
    records: list[Record] = []
    started = time.monotonic()
    try:
        with (
            Engine(
                timeout_s=given.timeout_s, max_rows=given.max_rows, threads=given.threads
            ) as engine,
            opened(given.output, (given.predictions, given.questions)) as output,
            progress(len(questions)) as shown,
        ):
            for part in evaluated(
                questions,
                predicted,
                engine,
                semantics=semantics,
                repeats=given.efficiency,
                keep_distinct=given.keep_distinct,
            ):
                records += part
                if output is not None:
                    write(output, part, sqlite.version)
                shown.advance(len(part))
    except KeyboardInterrupt:
        kept = f"kept in {given.output}" if given.output else "lost: there was no --output"
        print(
            f"stopped after {len(records)} of {len(questions)} questions, {kept}", file=sys.stderr
        )
        return INTERRUPTED
    found = summary(records, timed=bool(given.efficiency))
    said = remarks(found, given.efficiency)
    if given.json:
        settings = {
            "finestep_fast": version("finestep_fast"),
            "sqlite": asdict(sqlite),
            "predictions": str(given.predictions),
            "questions": str(given.questions),
            "semantics": list(semantics),
            "keep_distinct": given.keep_distinct,
            "efficiency_repeats": given.efficiency,
            "timeout_s": given.timeout_s,
            "max_rows": given.max_rows,
            "seconds": round(time.monotonic() - started, 3),
        }
        print(json.dumps({**settings, **found, "remarks": said}, indent=1))
    else:
        show(f"{given.predictions}, SQLite {sqlite.version}", found, said)
    return 0


@contextmanager
def opened(path: Path | None, inputs: tuple[Path, ...]) -> Iterator[TextIO | None]:
    """The file for the records; none if none is asked for.

    Raises:
        InputError: It cannot be written, or is one of the files that are read.
    """
    if path is None:
        yield None
        return
    if any(path.exists() and os.path.samefile(path, given) for given in inputs):
        raise InputError(f"output {str(path)!r}: is one of the files to read")
    try:
        # A lone surrogate, which UTF-8 lacks, is written as the escape that JSON has for it.
        file = path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"output {str(path)!r}: {error.strerror}") from error
    with file:
        yield file


def write(output: TextIO, records: list[Record], sqlite_version: str) -> None:
    """Adds records, so that they are kept whatever comes next."""
    entries: list[dict[str, Any]] = [record.entry(sqlite_version) for record in records]
    output.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    output.flush()

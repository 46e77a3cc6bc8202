"""The command from its options to its exit status: read, evaluate, keep, show."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from finestep_fast.config.check import check_number
from finestep_fast.env.databases import checked_databases
from finestep_fast.env.question import load_questions
from finestep_fast.errors import InputError, shown
from finestep_fast.eval.evaluation import Record, checked_semantics, evaluated
from finestep_fast.eval.predictions import Prediction, load_predictions
from finestep_fast.eval.screen import progress, require_rich, show
from finestep_fast.eval.summary import counted, remarks, summary
from finestep_fast.output import written
from finestep_fast.sql import Engine, library

INTERRUPTED = 130


def version_text() -> str:
    """Return the versions of this package and of SQLite, with the library's file and options."""
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
    """Evaluate what the options say; returns the exit status.

    Raises:
        InputError: An option or a file is unusable.
        BuildError: A table is asked for and cannot be drawn.
    """
    if not given.json:
        require_rich()
    semantics = checked_semantics([name.strip() for name in given.semantics.split(",")])
    if given.efficiency < 0:
        raise InputError(f"--efficiency is {given.efficiency}; expected a number of repeats >= 0")
    check_number("--max-unusable", given.max_unusable, low=0, high=1)
    if given.limit is not None and given.limit < 1:
        raise InputError(f"--limit is {given.limit}; expected at least 1")
    if not given.databases.is_dir():
        raise InputError(f"databases {str(given.databases)!r}: is no folder")
    questions = load_questions(given.questions, given.databases)
    if not questions:
        raise InputError(f"questions {str(given.questions)!r}: holds no question")
    predicted = load_predictions(given.predictions, questions)[: given.limit]
    questions = questions[: given.limit]
    unusable = checked_databases(
        questions,
        what=f"databases {str(given.databases)!r}",
        max_share=given.max_unusable,
        setting="--max-unusable",
    )
    if unusable:
        print(f"warning: {unusable}", file=sys.stderr)
    sqlite = library()
    records: list[Record] = []
    started = time.monotonic()
    try:
        with (
            Engine(
                timeout_s=given.timeout_s, max_rows=given.max_rows, workers=given.workers
            ) as engine,
            opened(given.output, (given.predictions, given.questions)) as output,
            progress(len(questions)) as bar,
        ):
            for part in evaluated(
                questions,
                [prediction.sql for prediction in predicted],
                engine,
                semantics=semantics,
                repeats=given.efficiency,
                keep_distinct=given.keep_distinct,
                problems=[prediction.problem for prediction in predicted],
            ):
                records += part
                if output is not None:
                    write(output, part, sqlite.version)
                bar.advance(len(part))
    except KeyboardInterrupt:
        kept = f"kept in {given.output}" if given.output else "lost: there was no --output"
        print(
            f"stopped after {len(records)} of {len(questions)} questions, {kept}", file=sys.stderr
        )
        return INTERRUPTED
    found = summary(records, timed=bool(given.efficiency))
    said = [*([unusable] if unusable else []), *remarks(found, given.efficiency)]
    said += no_queries(predicted, given.predictions)
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
        with written():
            print(json.dumps({**settings, **found, "remarks": said}, indent=1))
    else:
        with written():
            show(f"{given.predictions}, SQLite {sqlite.version}", found, said)
    if all(value is None for value in found["overall"]["ex"].values()):
        reason = records[0].first.message
        raise InputError(
            f"questions {str(given.questions)!r}: every gold query failed, nothing was measured; "
            f"the first failed because of: {reason}"
        )
    return 0


def no_queries(predicted: Sequence[Prediction], path: Path) -> list[str]:
    """Return a sentence on the entries of the file that are no query, if there are any."""
    wrong = [p for p in predicted if p.sql is None and p.place != f"predictions {str(path)!r}"]
    if not wrong:
        return []
    number = counted(len(wrong), "prediction is", "predictions are")
    place = wrong[0].place.removeprefix(f"predictions {str(path)!r}, ")
    return [f"{number} no query and counted as wrong; the first, {place}: {wrong[0].problem}"]


@contextmanager
def opened(path: Path | None, inputs: tuple[Path, ...]) -> Iterator[TextIO | None]:
    """Return the file for the records; none if none is asked for.

    Raises:
        InputError: It cannot be written, or is one of the files that are read.
    """
    if path is None:
        yield None
        return
    if any(os.path.exists(path) and os.path.samefile(path, given) for given in inputs):
        raise InputError(f"output {str(path)!r}: is one of the files to read")
    try:
        # A lone surrogate, which UTF-8 lacks, is written as the escape that JSON has for it.
        file = path.open("w", encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    try:
        yield file
    finally:
        try:
            file.close()
        except OSError as error:
            raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError | ValueError) -> InputError:
    """Return the sentence about an output that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"output {shown(str(path))}: {reason}")


def write(output: TextIO, records: list[Record], sqlite_version: str) -> None:
    """Add records, so that they are kept whatever comes next.

    Raises:
        InputError: They cannot be written.
    """
    entries: list[dict[str, Any]] = [record.entry(sqlite_version) for record in records]
    try:
        output.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        output.flush()
    except OSError as error:
        raise unwritable(Path(output.name), error) from error

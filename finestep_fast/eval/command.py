"""The command from its options to its exit status: read, evaluate, keep, show."""

from __future__ import annotations

import json
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
from finestep_fast.eval.compare_sqlite import compare_sqlite
from finestep_fast.eval.evaluation import TEST_SUITE, Record, checked_semantics, evaluated
from finestep_fast.eval.predictions import Prediction, load_predictions
from finestep_fast.eval.recorded import recorded_verdicts, version_remarks, version_warning
from finestep_fast.eval.report import Report, checked_outputs, unwritable, write_report
from finestep_fast.eval.screen import progress, require_rich, show
from finestep_fast.eval.suite import several_databases, suite_sizes
from finestep_fast.eval.summary import counted, remarks, summary
from finestep_fast.eval.tables import status_lines, tables
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
    questions = load_questions(given.questions, given.databases, golds_alone=True)
    if not questions:
        raise InputError(f"questions {str(given.questions)!r}: holds no question")
    predicted = load_predictions(given.predictions, questions, as_written=given.as_written)
    predicted = predicted[: given.limit]
    ks = checked_ks(given.pass_at, predicted)
    if given.efficiency and any(prediction.more for prediction in predicted):
        raise InputError("--efficiency times one prediction per question; the file has several")
    questions = questions[: given.limit]
    unusable = checked_databases(
        questions,
        what=f"databases {str(given.databases)!r}",
        max_share=given.max_unusable,
        setting="--max-unusable",
    )
    if unusable:
        print(f"warning: {unusable}", file=sys.stderr)
    if given.compare_sqlite is not None:
        return compare_sqlite(given, semantics, questions, predicted)
    lines, reports = checked_outputs(given.output, (given.predictions, given.questions))
    sqlite = library()
    recorded = recorded_verdicts(given.predictions)
    if warning := version_warning(recorded, sqlite.version):
        print(f"warning: {warning}", file=sys.stderr)
    records: list[Record] = []
    started = time.monotonic()
    try:
        with (
            Engine(
                timeout_s=given.timeout_s, max_rows=given.max_rows, workers=given.workers
            ) as engine,
            opened(lines) as output,
            progress(len(questions)) as bar,
        ):
            for part in evaluated(
                questions,
                [prediction.queries for prediction in predicted],
                engine,
                semantics=semantics,
                repeats=given.efficiency,
                keep_distinct=given.keep_distinct,
                problems=[prediction.problem for prediction in predicted],
            ):
                records += part
                if output is not None:
                    write(output, part, sqlite.version)
                bar.advance(num_questions(part))
    except KeyboardInterrupt:
        kept = f"kept in {lines}" if lines else "lost: there was no --output for them"
        print(
            f"stopped after {num_questions(records)} of {len(questions)} questions, {kept}",
            file=sys.stderr,
        )
        return INTERRUPTED
    found = summary(records, timed=bool(given.efficiency), ks=ks)
    said = [*([unusable] if unusable else []), *remarks(found, given.efficiency)]
    sizes = suite_sizes(questions) if TEST_SUITE in semantics else {}
    said += (
        several_databases(sizes) + no_queries(predicted, given.predictions) + taken_out(predicted)
    )
    said += version_remarks(recorded, records, sqlite.version)
    settings = {
        "finestep_fast": version("finestep_fast"),
        "sqlite": asdict(sqlite),
        "predictions": str(given.predictions),
        "questions": str(given.questions),
        "semantics": list(semantics),
        "keep_distinct": given.keep_distinct,
        "test_suite_databases": sizes,
        "as_written": given.as_written,
        "taken_out_of_fences": sum(prediction.taken_out for prediction in predicted),
        "pass_at": list(ks),
        "efficiency_repeats": given.efficiency,
        "timeout_s": given.timeout_s,
        "max_rows": given.max_rows,
        "seconds": round(time.monotonic() - started, 3),
    }
    title = f"{given.predictions}, SQLite {sqlite.version} ({sqlite.path})"
    everything = {**settings, **found, "remarks": said}
    with written():
        if given.json:
            print(json.dumps(everything, indent=1))
        else:
            show(title, found, said)
    for path in reports:
        shown_settings = {**settings, "sqlite": sqlite.version}
        lines_below = [*status_lines(found), *said]
        report = Report(title, tables(found), lines_below, shown_settings, everything)
        write_report(path, report)
    if all(value is None for value in found["overall"]["ex"].values()):
        reason = records[0].first.message
        raise InputError(
            f"questions {str(given.questions)!r}: every gold query failed, nothing was measured; "
            f"the first failed because of: {reason}"
        )
    return 0


def checked_ks(text: str | None, predicted: Sequence[Prediction]) -> tuple[int, ...]:
    """Return the numbers k of `--pass-at`, rising.

    Without the option 1 and the least number of predictions of a question, if any has several.

    Raises:
        InputError: One is no positive number, or a question has not as many predictions.
    """
    answered = [prediction for prediction in predicted if not prediction.is_missing]
    fewest = min(answered, key=lambda prediction: len(prediction.queries), default=predicted[0])
    least = len(fewest.queries)
    if text is None:
        return tuple(sorted({1, least})) if any(p.more for p in predicted) else ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise InputError(f"--pass-at is {shown(text)}; expected numbers above 0, as in 1,4,8")
    ks = tuple(sorted({int(word) for word in words}))
    if ks[-1] > least:
        raise InputError(
            f"--pass-at is {text}, but {fewest.place} has "
            f"{counted(least, 'prediction', 'predictions')}; expected at least {ks[-1]}"
        )
    return ks


def num_questions(records: Sequence[Record]) -> int:
    """Return how many questions records are of."""
    return sum(record.sample == 0 for record in records)


def no_queries(predicted: Sequence[Prediction], path: Path) -> list[str]:
    """Return a sentence on the entries of the file that are no query, if there are any."""
    wrong = [p for p in predicted if p.is_missing and p.place != f"predictions {str(path)!r}"]
    if not wrong:
        return []
    number = counted(len(wrong), "prediction is", "predictions are")
    place = wrong[0].place.removeprefix(f"predictions {str(path)!r}, ")
    return [f"{number} no query and counted as wrong; the first, {place}: {wrong[0].problem}"]


def taken_out(predicted: Sequence[Prediction]) -> list[str]:
    """Return a sentence on the queries that are only a part of what the file holds, if any are."""
    count = sum(prediction.taken_out for prediction in predicted)
    if not count:
        return []
    number = counted(count, "prediction was", "predictions were")
    return [f"{number} taken out of fences or other text, where the published evaluators fail"]


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO | None]:
    """Return the file for the records; none if none is asked for.

    Raises:
        InputError: It cannot be written.
    """
    if path is None:
        yield None
        return
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

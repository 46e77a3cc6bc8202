"""What another copy of SQLite makes of the same golds and predictions: `--compare-sqlite`.

Not a choice between the two: neither is the right one.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from finestep_fast.env.question import Question
from finestep_fast.errors import InputError, shown
from finestep_fast.eval.change import Change, change_of
from finestep_fast.eval.evaluation import QUESTIONS_PER_WORKER, Verdict, evaluated
from finestep_fast.eval.predictions import Prediction
from finestep_fast.eval.screen import progress
from finestep_fast.eval.summary import counted
from finestep_fast.output import written
from finestep_fast.sql import Engine, Library, Result, Semantics, library
from finestep_fast.sql.library_process import LibraryProcess

SAME, DIFFERENT = 0, 1
GOLD, PREDICTED = "gold", "predicted"
Job = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """What queries may take, under both copies."""

    timeout_s: float
    max_rows: int
    workers: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one copy makes of one question."""

    verdicts: dict[str, Verdict]
    """By semantics."""
    traces: dict[str, str]
    """Of the result of the gold and of the predicted query, if there is one: the digest of its
    rows, or how it failed."""


@dataclass(slots=True)
class Comparison:
    """What two copies make of one question."""

    question: Question
    """It."""
    verdicts: tuple[dict[str, Verdict], dict[str, Verdict]]
    """Under this copy and under the other, by semantics."""
    changes: dict[str, Change] = field(default_factory=dict)
    """Of the results of the gold and of the predicted query, where there is a difference."""
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The first row that differs, or how it ended, under this copy and under the other."""
    unsteady: list[str] = field(default_factory=list)
    """Which of the two queries gives another result each time under this copy alone."""

    @property
    def flipped(self) -> dict[str, tuple[bool, bool]]:
        """Return the verdicts that change, by semantics."""
        one, other = self.verdicts
        return {
            name: (one[name].equal, other[name].equal)
            for name in one
            if one[name].equal != other[name].equal
        }

    @property
    def differs(self) -> bool:
        """Return whether a verdict or a result changes; the order of rows alone does not count."""
        return bool(self.flipped or set(self.changes.values()) - {Change.ORDER})

    def entry(self) -> dict[str, Any]:
        """Return what changes as one JSON object."""
        return {
            "question_id": self.question.question_id,
            "db_id": self.question.db_id,
            "verdicts": {name: list(pair) for name, pair in self.flipped.items()},
            "results": {
                name: {"change": change.value, "first": list(self.rows[name])}
                for name, change in self.changes.items()
            },
            "unsteady": self.unsteady,
        }


def outcomes(
    questions: Sequence[Question],
    predicted: Sequence[str | None],
    semantics: Sequence[Semantics],
    keep_distinct: bool,
    limits: Limits,
) -> list[Outcome]:
    """Return what the copy of this process makes of some questions."""
    with Engine(**asdict(limits)) as engine:
        parts = evaluated(
            questions,
            [[sql] for sql in predicted],
            engine,
            semantics=semantics,
            keep_distinct=keep_distinct,
        )
        verdicts = [record.verdicts for part in parts for record in part]
        jobs = [jobs_of(*pair) for pair in zip(questions, predicted, strict=True)]
        results = iter(engine.run([job for by_name in jobs for job in by_name.values()]))
        traces = [{name: trace(next(results)) for name in by_name} for by_name in jobs]
    return [Outcome(*pair) for pair in zip(verdicts, traces, strict=True)]


def results_of(jobs: Sequence[Job], limits: Limits) -> list[Result]:
    """Return the results of some queries under the copy of this process."""
    with Engine(**asdict(limits)) as engine:
        return engine.run(jobs)


def jobs_of(question: Question, predicted_sql: str | None) -> dict[str, Job]:
    """Return what is run of a question."""
    names = [GOLD, *(f"{GOLD} {i + 2}" for i in range(len(question.other_golds)))]
    jobs = {
        name: (str(question.database), gold)
        for name, gold in zip(names, question.golds, strict=True)
    }
    if predicted_sql is not None:
        jobs[PREDICTED] = (str(question.database), predicted_sql)
    return jobs


def trace(result: Result) -> str:
    """Return what a result is known again by."""
    return result.digest or result.status.value


def compared_outcomes(
    questions: Sequence[Question],
    predicted: Sequence[str | None],
    semantics: Sequence[Semantics],
    other: LibraryProcess,
    *,
    keep_distinct: bool,
    limits: Limits,
) -> list[Comparison]:
    """Return what this copy and another make of some questions."""
    given = (questions, predicted, semantics, keep_distinct, limits)
    pairs = list(zip(outcomes(*given), other.call(outcomes, *given), strict=True))
    found = [
        Comparison(question, (here.verdicts, there.verdicts))
        for question, (here, there) in zip(questions, pairs, strict=True)
    ]
    # Rows are fetched only where there is something to tell.
    places = [
        (i, name)
        for i, (here, there) in enumerate(pairs)
        for name, traced in here.traces.items()
        if traced != there.traces[name]
    ]
    jobs = [jobs_of(questions[i], predicted[i])[name] for i, name in places]
    two = (results_of(jobs, limits), other.call(results_of, jobs, limits))
    for (i, name), one, another in zip(places, *two, strict=True):
        if trace(one) != pairs[i][0].traces[name]:
            found[i].unsteady.append(name)
        elif (change := change_of(one, another)) is not Change.NONE:
            found[i].changes[name] = change
            found[i].rows[name] = first_difference(one, another)
    return found


def first_difference(one: Result, other: Result) -> tuple[str, str]:
    """Return the first row that differs in words, or how the query ended."""
    if one.status is not other.status:
        return ended(one), ended(other)
    for i, (row, row_of_other) in enumerate(zip(one.rows, other.rows, strict=False)):
        if row != row_of_other:
            return f"row {i}: {shown(row)}", f"row {i}: {shown(row_of_other)}"
    return f"{len(one.rows)} rows", f"{len(other.rows)} rows"


def ended(result: Result) -> str:
    """Return how a query ended in words."""
    return f"{result.status}: {result.message}" if result.message else str(result.status)


def compare_sqlite(
    given: Namespace,
    semantics: Sequence[Semantics],
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
) -> int:
    """Print what changes under the other copy.

    Returns:
        0 if no verdict and no result changes, apart from the order of rows; else 1.

    Raises:
        InputError: --output, --efficiency or --pass-at is asked for as well, or a question has
            several predictions.
        BuildError: The other copy cannot be used.
    """
    for name in ("output", "efficiency", "pass_at"):
        if getattr(given, name):
            option = name.replace("_", "-")
            raise InputError(f"--compare-sqlite goes without --{option}; expected one of the two")
    if several := [prediction for prediction in predictions if prediction.more]:
        raise InputError(
            f"--compare-sqlite takes one prediction per question; {several[0].place} has "
            f"{len(several[0].queries)}"
        )
    predicted = [prediction.sql for prediction in predictions]
    limits = Limits(given.timeout_s, given.max_rows, given.workers)
    found: list[Comparison] = []
    try:
        with LibraryProcess(given.compare_sqlite) as other, progress(len(questions)) as bar:
            libraries = library(), other.library
            size = QUESTIONS_PER_WORKER * 2
            for part in (slice(start, start + size) for start in range(0, len(questions), size)):
                found += compared_outcomes(
                    questions[part],
                    predicted[part],
                    semantics,
                    other,
                    keep_distinct=given.keep_distinct,
                    limits=limits,
                )
                bar.advance(len(questions[part]))
    except KeyboardInterrupt:
        print(f"stopped after {len(found)} of {len(questions)} questions", file=sys.stderr)
        raise
    with written():
        if given.json:
            print(json.dumps(report(given, semantics, libraries, found), indent=1))
        else:
            print("\n".join(sentences(semantics, libraries, found)))
    return DIFFERENT if any(comparison.differs for comparison in found) else SAME


def execution_accuracies(found: Sequence[Comparison], semantics: str) -> tuple[float, float]:
    """Return EX under this copy and under the other."""
    right = [[by_name[semantics].equal for by_name in c.verdicts] for c in found]
    here, there = map(sum, zip(*right, strict=True))
    return here / len(found), there / len(found)


def changes_by_kind(found: Sequence[Comparison], name: str) -> dict[str, int]:
    """Return how many results of the golds, or of the predictions, change in which way."""
    changes = Counter(
        change for c in found for query, change in c.changes.items() if query.startswith(name)
    )
    return {change.value: changes[change] for change in Change if change in changes}


def flips(found: Sequence[Comparison], semantics: str) -> tuple[int, int]:
    """Return how many verdicts go from right to wrong, and from wrong to right."""
    pairs = [c.flipped[semantics] for c in found if semantics in c.flipped]
    return pairs.count((True, False)), pairs.count((False, True))


def report(
    given: Namespace,
    semantics: Sequence[Semantics],
    libraries: tuple[Library, Library],
    found: Sequence[Comparison],
) -> dict[str, Any]:
    """Return everything found as one JSON object; pairs are this copy's, then the other's."""
    return {
        "finestep_fast": version("finestep_fast"),
        "sqlite": [asdict(used) for used in libraries],
        "predictions": str(given.predictions),
        "questions": str(given.questions),
        "compared": len(found),
        "ex": {name: list(execution_accuracies(found, name)) for name in semantics},
        "right_to_wrong": {name: flips(found, name)[0] for name in semantics},
        "wrong_to_right": {name: flips(found, name)[1] for name in semantics},
        "gold_results": changes_by_kind(found, GOLD),
        "predicted_results": changes_by_kind(found, PREDICTED),
        "changed": [c.entry() for c in found if c.flipped or c.changes or c.unsteady],
    }


def sentences(
    semantics: Sequence[Semantics],
    libraries: tuple[Library, Library],
    found: Sequence[Comparison],
) -> Iterator[str]:
    """Yield the lines of the report for people."""
    here, there = libraries
    yield f"SQLite {here.version} ({here.path})"
    yield f"beside {there.version} ({there.path}), {counted(len(found), 'question', 'questions')}"
    for name in semantics:
        one, other = execution_accuracies(found, name)
        lost, won = flips(found, name)
        yield (
            f"EX {name}: {one:.2%} and {other:.2%}; "
            f"{lost} from right to wrong, {won} from wrong to right"
        )
    for query in (GOLD, PREDICTED):
        kinds = changes_by_kind(found, query)
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        yield f"results of {query} queries that change: {listed or 'none'}"
    for comparison in found:
        yield from lines_of(comparison)


def lines_of(comparison: Comparison) -> Iterator[str]:
    """Yield what changes of one question."""
    question = comparison.question
    place = f"question {question.question_id} ({question.db_id})"
    for semantics, (one, _) in comparison.flipped.items():
        words = ("right", "wrong") if one else ("wrong", "right")
        yield f"{place}: {semantics}: {words[0]}, {words[1]} under the other"
    for name, change in comparison.changes.items():
        one_row, other_row = comparison.rows[name]
        yield f"{place}: {name}: {change}: {one_row}; under the other {other_row}"
    for name in comparison.unsteady:
        yield f"{place}: {name}: not compared, its result changes from run to run"

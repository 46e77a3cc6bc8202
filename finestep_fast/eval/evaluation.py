"""Every predicted query run, compared with its gold and, on request, timed: a record per question.

Not a table: `summary` says what the records add up to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from finestep_fast.env.question import Question
from finestep_fast.errors import InputError
from finestep_fast.eval.efficiency import Efficiency, timed
from finestep_fast.sql import Engine, Match, Semantics, Status

NO_PREDICTION = "no_prediction"
SOFT_F1: Semantics = "soft_f1"
# What a result can be right under. Soft-F1 is a score, and always reported.
SEMANTICS: dict[str, Semantics] = {n: n for n in get_args(Semantics) if n != SOFT_F1}
# An answer that would cost the same time or memory once more under the next semantics.
COSTLY = frozenset(
    {
        Status.PREDICTED_TIMEOUT,
        Status.PREDICTED_TOO_LARGE,
        Status.GOLD_TIMEOUT,
        Status.GOLD_TOO_LARGE,
        Status.DATABASE_UNREADABLE,
    }
)
QUESTIONS_PER_WORKER = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one semantics says of one prediction."""

    equal: bool
    """Whether it is right; never after a failure."""
    status: str
    """How it ended: one of `sql.Status`, or `no_prediction`."""
    message: str = ""
    """What went wrong; empty where nothing did."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is found of one question."""

    question: Question
    """It."""
    predicted_sql: str | None
    """The predicted query; none if there is none."""
    verdicts: dict[str, Verdict]
    """By semantics, in the order asked for."""
    soft_f1: float = 0.0
    """In [0, 1]; 0 after a failure."""
    elapsed_ms: float = 0.0
    """Time the predicted query took, once; 0 if it did not run."""
    gold_failed: bool = False
    """Whether no verdict was possible because the gold query or its database failed."""
    efficiency: Efficiency | None = None
    """Times of a right query beside its gold; none if it was not timed."""

    @property
    def first(self) -> Verdict:
        """Return the verdict of the semantics named first."""
        return next(iter(self.verdicts.values()))

    def entry(self, sqlite_version: str) -> dict[str, Any]:
        """Return the record as one JSON object; the first semantics speaks at the top."""
        named, *others = self.verdicts
        entry: dict[str, Any] = {
            "question_id": self.question.question_id,
            "db_id": self.question.db_id,
            "difficulty": self.question.difficulty,
            "semantics": named,
            **verdict_entry(self.first),
            "soft_f1": self.soft_f1,
            "elapsed_ms": round(self.elapsed_ms, 3),
        }
        if others:
            entry["others"] = {name: verdict_entry(self.verdicts[name]) for name in others}
        if self.efficiency is not None:
            entry["efficiency"] = {
                "predicted_ms": round(self.efficiency.predicted_ms, 4),
                "gold_ms": round(self.efficiency.gold_ms, 4),
                "time_ratio": round(self.efficiency.time_ratio, 4),
                "reward": self.efficiency.reward,
            }
        return {**entry, "predicted_sql": self.predicted_sql, "sqlite": sqlite_version}


def verdict_entry(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a JSON object."""
    return {"equal": verdict.equal, "status": verdict.status, "message": verdict.message}


def checked_semantics(names: Sequence[str]) -> list[Semantics]:
    """Return the semantics of these names.

    Raises:
        InputError: One is unknown or comes twice.
    """
    for name in names:
        if name not in SEMANTICS:
            raise InputError(f"semantics is {name!r}; expected some of {', '.join(SEMANTICS)}")
    if len(set(names)) < len(names):
        raise InputError(f"semantics is {', '.join(names)}; expected different ones")
    return [SEMANTICS[name] for name in names]


def evaluated(
    questions: Sequence[Question],
    predicted: Sequence[str | None],
    engine: Engine,
    *,
    semantics: Sequence[Semantics] = ("bird",),
    repeats: int = 0,
    keep_distinct: bool = False,
    problems: Sequence[str] | None = None,
) -> Iterator[list[Record]]:
    """Evaluate predictions, some at a time.

    Args:
        questions: What was asked.
        predicted: One predicted query per question; none where there is no prediction.
        engine: Runs the queries, within its limits.
        semantics: When a result counts as right; the first decides what is timed.
        repeats: How often a right query and its gold are timed; 0 for no efficiency score.
        keep_distinct: For `test_suite`: whether DISTINCT stays in the queries; see `Engine.match`.
        problems: Why there is no prediction for a question, where there is none.

    Yields:
        The records of the next questions, in their order.
    """
    size = QUESTIONS_PER_WORKER * engine.workers
    for start in range(0, len(questions), size):
        part = slice(start, start + size)
        records = compared(
            questions[part], predicted[part], engine, semantics, keep_distinct=keep_distinct
        )
        if problems is not None:
            records = [
                with_problem(record, problem)
                for record, problem in zip(records, problems[part], strict=True)
            ]
        if repeats:
            records = [with_times(record, engine, repeats) for record in records]
        yield records


def compared(
    questions: Sequence[Question],
    predicted: Sequence[str | None],
    engine: Engine,
    semantics: Sequence[Semantics],
    *,
    keep_distinct: bool,
) -> list[Record]:
    """Return the records of some questions, without times."""
    answered = [i for i, sql in enumerate(predicted) if sql is not None]
    matches: list[dict[str, Match]] = [{} for _ in questions]
    for name in (*semantics, SOFT_F1):
        todo = []
        for i in answered:
            known = next(iter(matches[i].values()), None)
            if known is not None and known.status in COSTLY:
                matches[i][name] = known
            else:
                todo.append(i)
        # No early exit: how a query ended is reported too, and not only whether it was right.
        found = engine.match(
            [triple(questions[i], predicted[i]) for i in todo],
            semantics=name,
            keep_distinct=keep_distinct,
            early_exit=False,
        )
        for i, match in zip(todo, found, strict=True):
            matches[i][name] = match
    missing = Verdict(False, NO_PREDICTION, "there is no query for this question")
    records = []
    for i, question in enumerate(questions):
        if predicted[i] is None:
            records.append(Record(question, None, dict.fromkeys(semantics, missing)))
            continue
        verdicts: dict[str, Verdict] = {name: verdict_of(matches[i][name]) for name in semantics}
        first = matches[i][semantics[0]]
        records.append(
            Record(
                question,
                predicted[i],
                verdicts,
                soft_f1=matches[i][SOFT_F1].score,
                elapsed_ms=first.elapsed_ms,
                gold_failed=first.status.is_infrastructure,
            )
        )
    return records


def triple(question: Question, predicted_sql: str | None) -> tuple[str, str, str]:
    """Return what the engine is given of one question."""
    return str(question.database), predicted_sql or "", question.gold_sql


def verdict_of(match: Match) -> Verdict:
    """Return the verdict of a comparison."""
    return Verdict(match.equal, match.status.value, match.message)


def with_problem(record: Record, problem: str) -> Record:
    """Return the record with the reason why there is no prediction, if there is none."""
    if record.predicted_sql is not None:
        return record
    verdict = replace(record.first, message=problem)
    return replace(record, verdicts=dict.fromkeys(record.verdicts, verdict))


def with_times(record: Record, engine: Engine, repeats: int) -> Record:
    """Return the record with times, if the prediction is right under the first semantics."""
    if not record.first.equal or record.predicted_sql is None:
        return record
    efficiency = timed(record.question, record.predicted_sql, engine, repeats)
    return replace(record, efficiency=efficiency)

"""Every predicted query run, compared with its gold and, on request, timed: a record for each.

Not a table: `summary` says what the records add up to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from finestep_fast.env.question import Question
from finestep_fast.errors import InputError
from finestep_fast.eval.efficiency import Efficiency, timed
from finestep_fast.eval.gold_failures import with_reasons
from finestep_fast.eval.suite import on_all_databases
from finestep_fast.eval.vote import ballots_of, elected
from finestep_fast.sql import Engine, Match, Semantics, Status

NO_PREDICTION = "no_prediction"
SOFT_F1: Semantics = "soft_f1"
TEST_SUITE: Semantics = "test_suite"
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
    gold_index: int = 0
    """Of several accepted gold queries, the one it is about; see `sql.Match`."""
    golds_failed: int = 0
    """How many of several accepted gold queries failed."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is found of one prediction."""

    question: Question
    """What it answers."""
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
    """Times of a right query beside the gold it equals; none if it was not timed."""
    sample: int = 0
    """Its place, from 0, among the predictions for its question."""
    num_samples: int = 1
    """How many there are for its question."""
    is_elected: bool = True
    """Whether it stands for them: the first of those whose result most have; see `vote`."""

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
        if self.num_samples > 1:
            entry |= {"sample": self.sample, "is_elected": self.is_elected}
        if others:
            entry["others"] = {name: verdict_entry(self.verdicts[name]) for name in others}
        if self.question.other_golds:
            entry["gold_index"] = self.first.gold_index
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
    predicted: Sequence[Sequence[str | None]],
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
        predicted: The predicted queries of each question, at least one; None stands for what is no
            query.
        engine: Runs the queries, within its limits.
        semantics: When a result counts as right; the first decides what is timed and elected.
        repeats: How often a right query and its gold are timed; 0 for no efficiency score.
        keep_distinct: For `test_suite`: whether DISTINCT stays in the queries; see `Engine.match`.
        problems: Why there is no prediction for a question, where there is none.

    Yields:
        The records of all predictions for the next questions, in their order.
    """
    size = QUESTIONS_PER_WORKER * engine.workers
    for start in range(0, len(questions), size):
        places = [
            (i, sample)
            for i in range(start, min(start + size, len(questions)))
            for sample in range(len(predicted[i]))
        ]
        records = compared(
            [questions[i] for i, _ in places],
            [predicted[i][sample] for i, sample in places],
            engine,
            semantics,
            keep_distinct=keep_distinct,
        )
        records = [
            replace(record, sample=sample, num_samples=len(predicted[i]))
            for record, (i, sample) in zip(records, places, strict=True)
        ]
        if problems is not None:
            records = [
                with_problem(record, problems[i])
                for record, (i, _) in zip(records, places, strict=True)
            ]
        if repeats:
            records = [with_times(record, engine, repeats) for record in records]
        yield with_elected(records, engine, semantics[0])


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
    costly: dict[int, Match] = {}
    for name in (*semantics, SOFT_F1):
        todo = [i for i in answered if i not in costly]
        for i, known in costly.items():
            matches[i][name] = known
        # No early exit: how a query ended is reported too, and not only whether it was right.
        found = engine.match(
            [triple(questions[i], predicted[i]) for i in todo],
            semantics=name,
            keep_distinct=keep_distinct,
            early_exit=False,
        )
        costly |= {i: match for i, match in zip(todo, found, strict=True) if match.status in COSTLY}
        if name == TEST_SUITE:
            asked, given = [questions[i] for i in todo], [predicted[i] or "" for i in todo]
            found = on_all_databases(asked, given, found, engine, keep_distinct=keep_distinct)
            if not keep_distinct:
                found = with_reasons(asked, found, engine)
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


def triple(question: Question, predicted_sql: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Return what the engine is given of one question."""
    return str(question.database), predicted_sql or "", question.golds


def verdict_of(match: Match) -> Verdict:
    """Return the verdict of a comparison."""
    return Verdict(
        match.equal, match.status.value, match.message, match.gold_index, match.golds_failed
    )


def with_problem(record: Record, problem: str) -> Record:
    """Return the record with the reason why there is no prediction, if there is none."""
    if record.predicted_sql is not None or not problem:
        return record
    verdict = replace(record.first, message=problem)
    return replace(record, verdicts=dict.fromkeys(record.verdicts, verdict))


def by_question(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each question, in their order."""
    groups: list[list[Record]] = []
    for record in records:
        if record.sample == 0:
            groups.append([])
        groups[-1].append(record)
    return groups


def with_elected(records: Sequence[Record], engine: Engine, semantics: Semantics) -> list[Record]:
    """Return the records with the vote among the predictions for a question.

    Queries that failed do not vote, also if all failed: then the first stands for them.
    """
    voters = [i for i, record in enumerate(records) if may_vote(record)]
    jobs = [(records[i].question, records[i].predicted_sql or "") for i in voters]
    cast = dict(zip(voters, ballots_of(jobs, engine, semantics), strict=True))
    ballots = iter([cast.get(i, "") for i in range(len(records))])
    marked = []
    for group in by_question(records):
        place = elected([next(ballots) for _ in group]) or 0
        marked += [replace(record, is_elected=record.sample == place) for record in group]
    return marked


def may_vote(record: Record) -> bool:
    """Return whether a prediction has others beside it, and did not fail already."""
    status = record.first.status
    return record.num_samples > 1 and not status.startswith(("predicted_", NO_PREDICTION))


def with_times(record: Record, engine: Engine, repeats: int) -> Record:
    """Return the record with times, if the prediction is right under the first semantics."""
    if not record.first.equal or record.predicted_sql is None:
        return record
    question = record.question
    gold_sql = question.golds[record.first.gold_index]
    efficiency = timed(question.database, record.predicted_sql, gold_sql, engine, repeats)
    return replace(record, efficiency=efficiency)

"""What records add up to: overall, by difficulty and by database. The only place with averages.

Fractions, not percentages. A question whose gold query failed counts as wrong, as it does for the
published evaluators; `ex_where_gold_ran` leaves it out. Where no gold query ran, nothing was
measured: every average is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict

from finestep_fast.eval.evaluation import Record, by_question
from finestep_fast.eval.gold_failures import reasons, told
from finestep_fast.eval.vote import pass_at
from finestep_fast.sql import Status

_INFRASTRUCTURE = {status.value for status in Status if status.is_infrastructure}
BIRD_DIFFICULTIES = ("simple", "moderate", "challenging")
DIFFICULTIES = (*BIRD_DIFFICULTIES, "easy", "medium", "hard", "extra")  # Spider's follow


class Scores(TypedDict):
    """The numbers of a group of questions; an average over nothing is None."""

    questions: int
    """Questions of the group."""
    gold_failed: int
    """Those whose gold query failed under the first semantics."""
    some_golds_failed: int
    """Those of whose accepted gold queries some failed, and some ran."""
    no_prediction: int
    """Those without a predicted query."""
    ex: dict[str, float | None]
    """Execution accuracy by semantics; of several predictions for a question the mean counts."""
    ex_where_gold_ran: dict[str, float | None]
    """The same over the records whose gold query ran."""
    soft_f1: float | None
    """Mean Soft-F1."""
    pass_at: NotRequired[dict[str, dict[str, float | None]]]
    """By semantics and k: the chance that of k predictions for a question one is right at least; if
    asked for."""
    majority: NotRequired[dict[str, float | None]]
    """By semantics: execution accuracy of the predictions that the vote elects; where a question
    has several."""
    r_ves: NotRequired[float | None]
    """R-VES, if right queries were timed; 0 for a query that is not right or not timed."""


class Summary(TypedDict):
    """Everything that records add up to."""

    overall: Scores
    """All records."""
    by_difficulty: dict[str, Scores]
    """Empty where no question has a difficulty."""
    by_database: dict[str, Scores]
    """By `db_id`."""
    statuses: dict[str, dict[str, int]]
    """Verdicts of each status, by semantics."""
    gold_failures: dict[str, dict[str, int]]
    """Why gold queries failed and for how many questions, by semantics."""


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def gold_ran(record: Record, semantics: str) -> bool:
    """Return whether a verdict was possible, under one semantics."""
    return record.verdicts[semantics].status not in _INFRASTRUCTURE


Questions = Sequence[Sequence[Record]]  # the records of each


def over_questions(
    questions: Questions, semantics: str, score: Callable[[Sequence[Record]], float | None]
) -> float | None:
    """Return the mean of a score of each question's records; None where no gold query ran."""
    if not any(gold_ran(record, semantics) for records in questions for record in records):
        return None
    return mean([score(records) or 0.0 for records in questions])


def execution_accuracy(questions: Questions, semantics: str) -> float | None:
    """Return the share of right answers; None where no gold query ran."""
    return over_questions(
        questions, semantics, lambda records: mean([r.verdicts[semantics].equal for r in records])
    )


def scores(records: Sequence[Record], *, timed: bool, ks: Sequence[int] = ()) -> Scores:
    """Return the numbers of a group of questions.

    Args:
        records: All records of at least one question.
        timed: Whether right queries were timed.
        ks: Numbers k for which to tell how often one of k predictions is right.
    """
    questions = by_question(records)
    ran = [group for group in questions if not any(record.gold_failed for record in group)]
    measured = questions if ran else []  # as the first semantics has it
    semantics = list(records[0].verdicts)
    found: Scores = {
        "questions": len(questions),
        "gold_failed": len(questions) - len(ran),
        "some_golds_failed": sum(any(r.first.golds_failed for r in group) for group in ran),
        "no_prediction": sum(all(r.predicted_sql is None for r in group) for group in questions),
        "ex": {name: execution_accuracy(questions, name) for name in semantics},
        "ex_where_gold_ran": {
            name: execution_accuracy(
                [group for group in questions if any(gold_ran(r, name) for r in group)], name
            )
            for name in semantics
        },
        "soft_f1": mean([mean([r.soft_f1 for r in group]) or 0.0 for group in measured]),
    }
    if ks:
        found["pass_at"] = {
            name: {str(k): chance_of_one(questions, name, k) for k in ks} for name in semantics
        }
    if any(record.num_samples > 1 for record in records):
        found["majority"] = {
            name: execution_accuracy([[r for r in g if r.is_elected] for g in questions], name)
            for name in semantics
        }
    if timed:
        found["r_ves"] = mean(
            [r.efficiency.score if r.efficiency else 0.0 for group in measured for r in group]
        )
    return found


def chance_of_one(questions: Questions, semantics: str, k: int) -> float | None:
    """Return the mean chance that of k predictions for a question one is right at least."""

    def chance(records: Sequence[Record]) -> float:
        num_right = sum(record.verdicts[semantics].equal for record in records)
        return pass_at(k, len(records), num_right) if num_right else 0.0

    return over_questions(questions, semantics, chance)


def scores_by(
    records: Sequence[Record],
    label: Callable[[Record], str],
    *,
    timed: bool,
    ks: Sequence[int] = (),
) -> dict[str, Scores]:
    """Return the numbers of every group; known difficulties go first, others by name."""
    labels = sorted({label(record) for record in records})
    labels.sort(key=lambda name: DIFFICULTIES.index(name) if name in DIFFICULTIES else 9)
    return {
        name: scores([record for record in records if label(record) == name], timed=timed, ks=ks)
        for name in labels
    }


def summary(records: Sequence[Record], *, timed: bool, ks: Sequence[int] = ()) -> Summary:
    """Return what the records add up to; `by_difficulty` is empty where no question has one.

    Args:
        records: All records of each question, one question after the other.
        timed: See `scores`.
        ks: See `scores`.
    """
    has_difficulties = any(record.question.difficulty for record in records)
    return {
        "overall": scores(records, timed=timed, ks=ks),
        "by_difficulty": scores_by(records, lambda r: r.question.difficulty, timed=timed, ks=ks)
        if has_difficulties
        else {},
        "by_database": scores_by(records, lambda r: r.question.db_id, timed=timed, ks=ks),
        "statuses": {
            name: dict(Counter(r.verdicts[name].status for r in records).most_common())
            for name in records[0].verdicts
        },
        "gold_failures": {
            name: reasons(failed_golds(by_question(records), name)) for name in records[0].verdicts
        },
    }


def failed_golds(questions: Questions, semantics: str) -> list[str]:
    """Return a message of each question whose gold query failed."""
    return [
        next(r.verdicts[semantics].message for r in records if not gold_ran(r, semantics))
        for records in questions
        if not all(gold_ran(record, semantics) for record in records)
    ]


def remarks(found: Summary, repeats: int) -> list[str]:
    """Return sentences without which the numbers could be misread."""
    overall = found["overall"]
    said = []
    if overall["gold_failed"] == overall["questions"]:
        said.append("every gold query failed: nothing was measured")
    elif overall["gold_failed"]:
        said.append(
            f"{counted(overall['gold_failed'], 'gold query', 'gold queries')} failed and count as "
            "wrong; over the others "
            + ", ".join(
                f"EX {name} is {'unknown' if value is None else f'{value:.2%}'}"
                for name, value in overall["ex_where_gold_ran"].items()
            )
        )
    said += told(found["gold_failures"])
    if overall["some_golds_failed"]:
        asked = counted(overall["some_golds_failed"], "question has", "questions have")
        said.append(f"{asked} accepted gold queries that failed, and others that ran and decided")
    if overall["no_prediction"]:
        asked = counted(overall["no_prediction"], "question has", "questions have")
        said.append(f"{asked} no prediction: counted as wrong")
    undecided = {name: s["undecided"] for name, s in found["statuses"].items() if "undecided" in s}
    for name, count in undecided.items():
        said.append(f"{name}: {counted(count, 'verdict', 'verdicts')} undecided: counted as wrong")
    if "majority" in overall:
        said.append(
            "EX and Soft-F1 are means over the predictions for a question; the majority is the "
            "result that most of its queries that ran have, of several the first seen"
        )
    if repeats:
        said.append(
            f"R-VES: {counted(repeats, 'run', 'runs')} per query on open connections, one at a "
            "time; it is made of wall-clock times and not reproducible to the digit; where all "
            "ratios of a question are equal they are kept, which the published filter drops"
        )
    return said


def counted(count: int, one: str, several: str) -> str:
    """Return a count with its noun."""
    return f"{count} {one if count == 1 else several}"

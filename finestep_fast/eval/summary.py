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

from finestep_fast.eval.evaluation import Record
from finestep_fast.sql import Status

_INFRASTRUCTURE = {status.value for status in Status if status.is_infrastructure}
DIFFICULTIES = ("simple", "moderate", "challenging")


class Scores(TypedDict):
    """The numbers of a group of records; an average over nothing is None."""

    questions: int
    """Records of the group."""
    gold_failed: int
    """Those whose gold query failed under the first semantics."""
    some_golds_failed: int
    """Those of whose accepted gold queries some failed, and some ran."""
    no_prediction: int
    """Those without a predicted query."""
    ex: dict[str, float | None]
    """Execution accuracy by semantics."""
    ex_where_gold_ran: dict[str, float | None]
    """The same over the records whose gold query ran."""
    soft_f1: float | None
    """Mean Soft-F1."""
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


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def gold_ran(record: Record, semantics: str) -> bool:
    """Return whether a verdict was possible, under one semantics."""
    return record.verdicts[semantics].status not in _INFRASTRUCTURE


def execution_accuracy(records: Sequence[Record], semantics: str) -> float | None:
    """Return the share of right answers; None where no gold query ran."""
    if not any(gold_ran(record, semantics) for record in records):
        return None
    return mean([record.verdicts[semantics].equal for record in records])


def scores(records: Sequence[Record], *, timed: bool) -> Scores:
    """Return the numbers of a group of records.

    Args:
        records: At least one.
        timed: Whether right queries were timed.
    """
    ran = [record for record in records if not record.gold_failed]
    measured = records if ran else []  # as the first semantics has it
    semantics = list(records[0].verdicts)
    found: Scores = {
        "questions": len(records),
        "gold_failed": len(records) - len(ran),
        "some_golds_failed": sum(record.first.golds_failed > 0 for record in ran),
        "no_prediction": sum(record.predicted_sql is None for record in records),
        "ex": {name: execution_accuracy(records, name) for name in semantics},
        "ex_where_gold_ran": {
            name: execution_accuracy([r for r in records if gold_ran(r, name)], name)
            for name in semantics
        },
        "soft_f1": mean([record.soft_f1 for record in measured]),
    }
    if timed:
        found["r_ves"] = mean([r.efficiency.score if r.efficiency else 0.0 for r in measured])
    return found


def scores_by(
    records: Sequence[Record], label: Callable[[Record], str], *, timed: bool
) -> dict[str, Scores]:
    """Return the numbers of every group; BIRD's difficulties go first, others by name."""
    labels = sorted({label(record) for record in records})
    labels.sort(key=lambda name: DIFFICULTIES.index(name) if name in DIFFICULTIES else 3)
    return {
        name: scores([record for record in records if label(record) == name], timed=timed)
        for name in labels
    }


def summary(records: Sequence[Record], *, timed: bool) -> Summary:
    """Return what the records add up to; `by_difficulty` is empty where no question has one."""
    has_difficulties = any(record.question.difficulty for record in records)
    return {
        "overall": scores(records, timed=timed),
        "by_difficulty": scores_by(records, lambda r: r.question.difficulty, timed=timed)
        if has_difficulties
        else {},
        "by_database": scores_by(records, lambda r: r.question.db_id, timed=timed),
        "statuses": {
            name: dict(Counter(r.verdicts[name].status for r in records).most_common())
            for name in records[0].verdicts
        },
    }


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
    if overall["some_golds_failed"]:
        asked = counted(overall["some_golds_failed"], "question has", "questions have")
        said.append(f"{asked} accepted gold queries that failed, and others that ran and decided")
    if overall["no_prediction"]:
        asked = counted(overall["no_prediction"], "question has", "questions have")
        said.append(f"{asked} no prediction: counted as wrong")
    undecided = {name: s["undecided"] for name, s in found["statuses"].items() if "undecided" in s}
    for name, count in undecided.items():
        said.append(f"{name}: {counted(count, 'verdict', 'verdicts')} undecided: counted as wrong")
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

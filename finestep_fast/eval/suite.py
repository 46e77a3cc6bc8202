"""Every database of a question's folder, for `test_suite`: right is what is right on all of them.

Source: the test-suite evaluator runs both queries on each file of the folder. Not the making of
such files: where there is only one, nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finestep_fast.env.question import Question
from finestep_fast.sql import Engine, Match, Status
from finestep_fast.sql.golds import best_of


def suites(questions: Sequence[Question]) -> dict[str, tuple[Path, ...]]:
    """Return by `db_id` the databases on which a prediction must be right.

    First the questions' own, then by name the other `.sqlite` files of its folder; none but its own
    where the folder is not that of the one `db_id`.
    """
    found = {}
    for db_id, database in {question.db_id: question.database for question in questions}.items():
        folder = database.parent
        files = sorted(folder.glob("*.sqlite")) if folder.name == db_id and folder.is_dir() else []
        found[db_id] = (database, *(file for file in files if file != database))
    return found


def on_all_databases(
    questions: Sequence[Question],
    predicted: Sequence[str],
    matches: Sequence[Match],
    engine: Engine,
    *,
    keep_distinct: bool,
) -> list[Match]:
    """Return verdicts over all databases of each question.

    What is not right on the question's own database stays so and is not run again. Of several
    accepted gold queries one and the same has to be equal on all.

    Args:
        questions: [n] what was asked.
        predicted: [n] predicted queries.
        matches: [n] verdicts on the questions' own databases.
        engine: Runs the queries.
        keep_distinct: See `Engine.match`.
    """
    suite_of = suites(questions)
    todo = [
        i
        for i, match in enumerate(matches)
        if match.equal and len(suite_of[questions[i].db_id]) > 1
    ]
    triples = [
        (str(database), predicted[i], gold)
        for i in todo
        for gold in questions[i].golds
        for database in suite_of[questions[i].db_id]
    ]
    found = iter(
        engine.match(triples, semantics="test_suite", keep_distinct=keep_distinct, early_exit=False)
    )
    verdicts = list(matches)
    for i in todo:
        databases = suite_of[questions[i].db_id]
        by_gold = [
            worst_of([next(found) for _ in databases], databases) for _ in questions[i].golds
        ]
        verdicts[i] = replace(best_of(by_gold), elapsed_ms=matches[i].elapsed_ms)
    return verdicts


def worst_of(matches: Sequence[Match], databases: Sequence[Path]) -> Match:
    """Return the verdict over all databases, with the name of the first that decides it.

    A clear no on one is enough; then one that could not be decided, then one on which the gold
    query failed.
    """
    index = min(range(len(matches)), key=lambda i: rank(matches[i]))
    worst = matches[index]
    if worst.equal:
        return worst
    reason = worst.message or "the results differ"
    return replace(worst, message=f"{databases[index].name}: {reason}")


def rank(match: Match) -> int:
    """Return how much a verdict on one database says against the prediction; the lowest counts."""
    if match.equal:
        return 3
    if match.status.is_infrastructure:
        return 2
    return int(match.status is Status.UNDECIDED)


def suite_sizes(questions: Sequence[Question]) -> dict[str, int]:
    """Return on how many databases predictions must be right, by `db_id`."""
    return {db_id: len(databases) for db_id, databases in suites(questions).items()}


def several_databases(sizes: Mapping[str, int]) -> list[str]:
    """Return a sentence on the folders that hold several databases, if any do."""
    several = [size for size in sizes.values() if size > 1]
    if not several:
        return []
    least, most = min(sizes.values()), max(sizes.values())
    files = f"{most} .sqlite files" if least == most else f"{least} to {most} .sqlite files"
    return [f"test_suite: right is what is right on all {files} of a database's folder"]

"""Scripted demonstrations of mixed quality: what the warm start imitates and RL improves on.

A demonstration is a list of tool calls that ends in `submit`; observations are not written,
they come from the real environment when the calls are replayed. Two things vary apart from each
other: the way (blind, looking, wasteful, failing first) and the query (the gold, or the kind's
natural mistake). So the best behaviour is in the data, but it is not what most of the data do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated

from finestep_fast.config.rules import Share, at_least, at_most, check_fields
from finestep_fast.train.generated.calls import Call, list_tables, look, run, search_values, submit
from finestep_fast.train.generated.demonstration import Demonstration, check_way_shares
from finestep_fast.train.generated.rows import gives_rows_of
from finestep_fast.train.quickstart.databases import STYLES, Style
from finestep_fast.train.quickstart.kinds import KINDS
from finestep_fast.train.quickstart.questions import WorldQuestion

MOST_CALLS = 6
QUALITIES = ("perfect", "wrong", "blind", "wasteful", "failing")
"""`perfect` and `wrong` go the short way (look, perhaps run, submit) and are told apart by the
result. `blind` submits at once in a guessed style. `wasteful` repeats itself. `failing` runs a
query with wrong names first, reads the error, looks and repairs. The last three may be right or
wrong: the key `right` says so."""


@dataclass(frozen=True)
class DemonstrationConfig:
    """How many demonstrations there are and how good they are."""

    per_question: Annotated[int, at_least(0), at_most(1000)] = 4
    """Demonstrations of each training question; dev questions have none."""
    blind_share: Share = 0.10
    """Share that submits at once, in a guessed naming style."""
    look_share: Share = 0.25
    """Share that looks at the table, perhaps runs the query, and submits."""
    wasteful_share: Share = 0.40
    """Share that repeats looks and runs, lists the tables or searches for values."""
    failing_share: Share = 0.25
    """Share that first runs a query with wrong names, then looks and repairs it."""
    run_share: Share = 0.5
    """Share of the looking and the repairing that runs the query before it submits."""
    hard_mistake_share: Share = 0.65
    """Share whose query has the natural mistake, for questions of a hard kind."""
    easy_mistake_share: Share = 0.20
    """The same for an easy kind."""

    def __post_init__(self) -> None:
        """Check every field, and that the ways' shares sum to 1.

        Raises:
            InputError: A value is out of range, or they do not.
        """
        check_fields(self)
        check_way_shares(self.way_shares)

    @property
    def way_shares(self) -> dict[str, float]:
        """Return the share of each way to go about a question."""
        return {
            "blind": self.blind_share,
            "look": self.look_share,
            "wasteful": self.wasteful_share,
            "failing": self.failing_share,
        }


def demonstrate(
    question: WorldQuestion,
    connection: sqlite3.Connection,
    rng: Random,
    config: DemonstrationConfig,
) -> Demonstration:
    """Return a demonstration of random quality; its label is found by running it."""
    hard = KINDS[question.kind].hard
    mistaken = rng.random() < (config.hard_mistake_share if hard else config.easy_mistake_share)
    template = question.draft.mistake if mistaken else question.draft.gold
    (way,) = rng.choices(list(config.way_shares), list(config.way_shares.values()))
    calls = _WAYS[way](question, template, config.run_share, rng)
    right = gives_rows_of(connection, calls[-1].arguments["sql"], question.gold_sql)
    if way == "look":
        way = "perfect" if right else "wrong"
    return Demonstration(
        question_id=question.question_id,
        db_id=question.database.db_id,
        quality=way,
        right=right,
        calls=calls,
    )


def _blind(
    question: WorldQuestion, template: str, run_share: float, rng: Random
) -> tuple[Call, ...]:
    return (submit(question.database.spelled(template, rng.choice(STYLES))),)


def _short(
    question: WorldQuestion, template: str, run_share: float, rng: Random
) -> tuple[Call, ...]:
    sql = question.database.spelled(template, question.database.style)
    runs = (run(sql),) if rng.random() < run_share else ()
    return (look(question.draft.table), *runs, submit(sql))


def _wasteful(
    question: WorldQuestion, template: str, run_share: float, rng: Random
) -> tuple[Call, ...]:
    database, table = question.database, question.draft.table
    sql = database.spelled(template, database.style)
    other = database.child_table if table == database.main_table else database.main_table
    detours: list[tuple[Call, ...]] = [
        (look(table), look(table), run(sql)),
        (look(table), run(sql), run(sql)),
        (look(table), look(other), run(sql), run(sql)),
        (look(table), look(table), run(sql), run(sql)),
        (list_tables(), look(table), look(table)),
        (list_tables(), look(table), run(sql), run(sql)),
    ]
    if question.draft.value is not None:
        found = search_values(question.draft.value)
        detours += [(found, look(table), run(sql)), (look(table), found, run(sql), run(sql))]
    return (*rng.choice(detours), submit(sql))


def _failing(
    question: WorldQuestion, template: str, run_share: float, rng: Random
) -> tuple[Call, ...]:
    wrong_sql = question.database.spelled(template, rng.choice(failing_styles(question)))
    return (run(wrong_sql), *_short(question, template, run_share, rng))


def failing_styles(question: WorldQuestion) -> list[Style]:
    """Return the styles that SQLite refuses here; it takes an unknown quoted name for a text."""
    return [s for s in STYLES if s not in (question.database.style, "quoted")]


_WAYS: dict[str, Callable[[WorldQuestion, str, float, Random], tuple[Call, ...]]] = {
    "blind": _blind,
    "look": _short,
    "wasteful": _wasteful,
    "failing": _failing,
}

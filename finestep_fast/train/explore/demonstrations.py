"""Scripted demonstrations: careful ones, then hasty ones; RL improves on what the hasty ones teach.

The careful ones miss nothing: from them a small model learns to copy what it has seen, also where
calls that were of no use stand in between. In the hasty ones two things vary apart from each other:
the way, which is how many calls are wasted, and what is missed, which is what the query has to
guess: above all one look for each kind of question.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from random import Random
from typing import Annotated

from finestep_fast.config.rules import Share, at_least, at_most, check_fields
from finestep_fast.train.explore.agent import BRIDGE, FORM, LIST, Agent, needed_looks
from finestep_fast.train.explore.questions import KINDS, WorldQuestion
from finestep_fast.train.explore.words import LABELS
from finestep_fast.train.generated.calls import Call, list_tables, look, run, search_values, submit
from finestep_fast.train.generated.demonstration import Demonstration, check_way_shares
from finestep_fast.train.generated.rows import Cell, gives_rows_of, rows_of

MOST_CALLS = 12
QUALITIES = ("perfect", "wrong", "wasteful", "mended", "gathers", "blind")
"""`perfect` and `wrong` waste no call and are told apart by the result. `wasteful` repeats itself
or looks at what it does not need. `mended` runs a query too early, reads an error or an empty
result, and looks again. `gathers` describes every table. `blind` submits before it has looked.
All but `perfect` and the careful ones may miss something: the key `right` says whether the answer
is right."""

HABITS = {
    "average": "describe x",
    "top": "search x",
    "total": BRIDGE,
    "flagged": FORM,
    "linked": "describe y",
    "linked_flagged": FORM,
    "both": "search y",
}
"""Of each kind of question, the needed look that hasty demonstrations leave out by habit."""


@dataclass(frozen=True)
class ExploreDemonstrationConfig:
    """How many demonstrations there are and how good they are."""

    careful_per_question: Annotated[int, at_least(0), at_most(1000)] = 3
    """Careful demonstrations of each training question, learnt first; others have none."""
    hasty_per_question: Annotated[int, at_least(0), at_most(1000)] = 2
    """Hasty ones, learnt after them."""
    careful_wasteful_share: Share = 0.5
    """Share of the careful ones that are wasteful; the others go the short way."""
    direct_share: Share = 0.25
    """Share of the hasty ones that goes the short way and submits."""
    wasteful_share: Share = 0.45
    """Share that repeats calls and looks at what it does not need."""
    mended_share: Share = 0.24
    """Share that runs a query before it has looked at everything."""
    gathers_share: Share = 0.03
    """Share that describes every table."""
    blind_share: Share = 0.03
    """Share that submits at once, or after the list of tables."""
    waste_share: Share = 0.5
    """Share of the looks of a wasteful demonstration that a wasted call follows."""
    mend_share: Share = 0.3
    """Share of the missed looks that are taken after a query that failed or found nothing."""
    run_share: Share = 0.5
    """Share of all, hasty and careful, that runs its query before it submits it."""
    easy_habit_share: Share = 0.35
    """Share of the hasty demonstrations of simple questions that leave out the habitual look."""
    habit_share: Share = 0.9
    """The same share of the other questions'."""
    miss_share: Share = 0.08
    """Share of every other needed look that is left out."""

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
            "direct": self.direct_share,
            "wasteful": self.wasteful_share,
            "mended": self.mended_share,
            "gathers": self.gathers_share,
            "blind": self.blind_share,
        }

    def left_out_share(self, kind: str, look_name: str) -> float:
        """Return the share of the demonstrations of a kind that leave out a look it needs."""
        if look_name != HABITS[kind]:
            return self.miss_share
        is_easy = KINDS[kind].difficulty == "simple"
        return self.easy_habit_share if is_easy else self.habit_share


def careful_demonstration(
    question: WorldQuestion,
    connection: sqlite3.Connection,
    rng: Random,
    config: ExploreDemonstrationConfig,
) -> Demonstration:
    """Return a demonstration that takes every look it needs; it may waste calls beside them."""
    way = "wasteful" if rng.random() < config.careful_wasteful_share else "direct"
    agent = Agent(question.draft, rng)
    calls = _looks(agent, way, (needed_looks(question.draft.kind), []), connection, config)
    return Demonstration(
        question_id=question.question_id,
        db_id=question.draft.database.db_id,
        quality="perfect" if way == "direct" else way,
        right=True,
        stage=0,
        calls=_answered(agent.sql(), way, calls, rng, config),
    )


def hasty_demonstration(
    question: WorldQuestion,
    connection: sqlite3.Connection,
    rng: Random,
    config: ExploreDemonstrationConfig,
) -> Demonstration:
    """Return a hasty demonstration of random quality; its label is found by running it."""
    (way,) = rng.choices(list(config.way_shares), list(config.way_shares.values()))
    agent = Agent(question.draft, rng)
    kept: list[str] = []
    missed: list[str] = []
    for name in needed_looks(question.draft.kind):
        share = config.left_out_share(question.draft.kind, name)
        (missed if rng.random() < share else kept).append(name)
    calls = _looks(agent, way, (kept, missed), connection, config)
    answer = agent.sql()
    right = gives_rows_of(connection, answer, question.gold_sql)
    quality = ("perfect" if right else "wrong") if way == "direct" else way
    return Demonstration(
        question_id=question.question_id,
        db_id=question.draft.database.db_id,
        quality=quality,
        right=right,
        stage=1,
        calls=_answered(answer, way, calls, rng, config),
    )


def _answered(
    answer: str, way: str, calls: list[Call], rng: Random, config: ExploreDemonstrationConfig
) -> tuple[Call, ...]:
    """Return the calls with the answer at the end, which some run before."""
    if way != "blind" and rng.random() < config.run_share:
        calls = calls + [run(answer)] * (1 + (way == "wasteful" and rng.random() < 0.5))
    return (*calls[: MOST_CALLS - 1], submit(answer))  # at most a run of the answer is cut


def _looks(
    agent: Agent,
    way: str,
    kept_and_missed: tuple[list[str], list[str]],
    connection: sqlite3.Connection,
    config: ExploreDemonstrationConfig,
) -> list[Call]:
    """Let an agent look around in its way; returns its calls before the answer.

    Args:
        agent: Has seen nothing yet.
        way: How it goes about it.
        kept_and_missed: The needed looks that it takes, in order, and those that it leaves out.
        connection: To the database of the question.
        config: The shares.
    """
    rng, draft = agent.rng, agent.draft
    if way == "blind":
        return agent.take(LIST) if rng.random() < 0.5 else []
    kept, missed = kept_and_missed
    late: list[str] = []
    calls: list[Call] = []
    if way == "gathers":
        kept = [name for name in kept if name.split()[0] in ("search", FORM)]
        calls += agent.take(LIST)
        room = MOST_CALLS - 2 - len(kept)
        calls += [agent.look_at(table.name) for table in draft.database.tables[:room]]
    early = rng.randrange(len(kept) + 1) if way == "mended" else len(kept) + 1
    for place, name in enumerate([*kept, ""]):
        if place == early:
            calls.append(run(agent.sql()))
            # An error or an empty result may send it back to what it would have missed.
            if not _shows_something(rows_of(connection, agent.sql())):
                late = [name for name in missed if rng.random() < config.mend_share]
        if name:
            calls += agent.take(name)
            has_room = len(calls) < MOST_CALLS // 2
            if way == "wasteful" and has_room and rng.random() < config.waste_share:
                calls.append(_wasted(agent, calls[-1]))
    return calls + [call for name in late for call in agent.take(name)]


def _shows_something(rows: list[tuple[Cell, ...]] | None) -> bool:
    return bool(rows) and rows not in ([(None,)], [(0,)])


def _wasted(agent: Agent, last: Call) -> Call:
    """Return a call that tells nothing new or nothing of use."""
    rng, database = agent.rng, agent.draft.database
    return rng.choice(
        (
            last,
            last,
            list_tables(),
            look(rng.choice(database.others)),
            search_values(agent.draft.values["y"]),
            run(f"SELECT {rng.choice(LABELS)} FROM {rng.choice(database.others)}"),
        )
    )

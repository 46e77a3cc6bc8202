"""The quickstart's questions: drafts that were tried on their database and kept.

A draft is kept when its gold result is short, not empty and settled by the data (no tie decides
a LIMIT, no NULL is an answer), and when the natural mistake of its kind gives another result
under BIRD's set equality.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from finestep_fast.train.generated.rows import rows_of
from finestep_fast.train.quickstart.databases import Database
from finestep_fast.train.quickstart.kinds import KINDS, Draft

MOST_RESULT_ROWS = 12
"""Longer gold results are dropped: observations are what most of a demonstration consists of."""
_ATTEMPTS = 60  # drafts of one kind before the database is said to hold none


def draft_question(
    kind: str,
    database: Database,
    connection: sqlite3.Connection,
    rng: Random,
    asked: Collection[str] = (),
) -> Draft | None:
    """Return a usable question of a kind whose gold is not `asked`, or None when none turns up."""
    for _ in range(_ATTEMPTS):
        draft = KINDS[kind].draft(database, rng)
        if draft.gold not in asked and usable(draft, database, connection):
            return draft
    return None


def usable(draft: Draft, database: Database, connection: sqlite3.Connection) -> bool:
    """Return whether the gold gives a settled, short, non-empty result, and the mistake not."""
    gold = rows_of(connection, database.spelled(draft.gold, database.style))
    if not gold or len(gold) > MOST_RESULT_ROWS or gold == [(0,)]:
        return False
    if any(cell is None for row in gold for cell in row):
        return False
    mistake = rows_of(connection, database.spelled(draft.mistake, database.style))
    if mistake is not None and set(mistake) == set(gold):
        return False
    if draft.ranking is None:
        return True
    ranking = rows_of(connection, database.spelled(draft.ranking, database.style)) or []
    inside, outside = ranking[: draft.limit], ranking[draft.limit :]
    return (None,) not in inside and inside[-1:] != outside[:1]


@dataclass(frozen=True)
class WorldQuestion:
    """A question that was kept, with the database it is about."""

    question_id: str
    kind: str
    draft: Draft
    database: Database

    @property
    def gold_sql(self) -> str:
        """Return the right query, spelled as its database spells."""
        return self.database.spelled(self.draft.gold, self.database.style)

    @property
    def mistake_sql(self) -> str:
        """Return the kind's natural mistake, spelled as its database spells."""
        return self.database.spelled(self.draft.mistake, self.database.style)

    def record(self) -> dict[str, str]:
        """Return the question in BIRD's format, plus its id and its kind."""
        return {
            "question_id": self.question_id,
            "db_id": self.database.db_id,
            "question": self.draft.text,
            "evidence": "",
            "SQL": self.gold_sql,
            "difficulty": KINDS[self.kind].difficulty,
            "kind": self.kind,
        }

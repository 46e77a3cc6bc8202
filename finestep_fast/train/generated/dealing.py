"""How questions are dealt out over the databases and kinds of a generated world."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import cycle, islice
from random import Random
from typing import Protocol, TypeVar

from finestep_fast.errors import InputError


class _Named(Protocol):
    @property
    def db_id(self) -> str: ...


Database = TypeVar("Database", bound=_Named)
Draft = TypeVar("Draft")


def dealt_drafts(
    made: Mapping[str, tuple[Database, sqlite3.Connection]],
    count: int,
    *,
    kinds: Collection[str],
    draft: Callable[[str, Database, sqlite3.Connection, Random, set[str]], Draft | None],
    gold: Callable[[Draft], str],
    rng: Random,
    what: str,
) -> Iterator[tuple[Database, str, Draft]]:
    """Yield [count] drafts, over the databases in turn; no two golds of a database are alike.

    Args:
        made: The databases of a split.
        count: How many drafts.
        kinds: Names of the kinds; none comes twice more often than another.
        draft: Make a draft of a kind whose gold was not asked of the database, or None.
        gold: Return the gold of a draft.
        rng: Decides the order of the kinds, and is handed to `draft`.
        what: The questions in words, for the error.

    Raises:
        InputError: A database holds no further question of any kind.
    """
    planned = list(islice(cycle(kinds), count))
    rng.shuffle(planned)
    asked: dict[str, set[str]] = {db_id: set() for db_id in made}
    for number, first in enumerate(planned):
        database, connection = list(made.values())[number % len(made)]
        # When the database holds no new question of the planned kind, any other kind will do.
        for kind in (first, *rng.sample(list(kinds), len(kinds))):
            drafted = draft(kind, database, connection, rng, asked[database.db_id])
            if drafted is not None:
                break
        else:
            raise InputError(
                f"{what}: {database.db_id} holds no further question; "
                f"{count} questions need more databases or more rows"
            )
        asked[database.db_id].add(gold(drafted))
        yield database, kind, drafted

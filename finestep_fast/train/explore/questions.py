"""The explore world's questions: seven kinds, each a SQL template over the names of a database.

A template stands for all spellings of a query: the gold one, the natural mistakes, and what an
agent writes that has not found everything. Foreign keys are followed by `IN`, so that a table's
name is always followed by its own columns. A question is kept when its gold result is short, not
empty and settled, and when every natural mistake gives another one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

from finestep_fast.train.explore.databases import SIDES, Database, Side
from finestep_fast.train.explore.words import KEY
from finestep_fast.train.generated.rows import rows_of

MOST_RESULT_ROWS = 8
"""Longer gold results are dropped."""
_ATTEMPTS = 40  # drafts of one kind before the database is said to hold none

_OF_VALUE = "SELECT {x_key} FROM {x_table} WHERE {x_category} = '{x_value}'"


@dataclass(frozen=True)
class Kind:
    """A kind of question about a side x and, where it names it, the other side y."""

    text: str
    """What is asked, with words in braces."""
    gold: str
    """The query, with names in braces."""
    difficulty: str
    """In BIRD's words: simple, moderate or challenging."""
    searched: tuple[str, ...] = ("x",)
    """The sides whose stored category the query needs."""
    described: tuple[str, ...] = ()
    """The tables whose columns the query needs: x, y, or the bridge."""
    flagged: bool = False
    """Whether the query needs the stored form of the bridge's flag."""


KINDS = {
    "average": Kind(
        text="Average {x_number_word} of {x} with {x_word} {x_value}?",
        gold="SELECT AVG({x_number}) FROM {x_table} WHERE {x_category} = '{x_value}'",
        difficulty="simple",
        described=("x",),
    ),
    "top": Kind(
        text="Which {x} with {x_word} {x_value} has the highest {x_number_word}?",
        gold="SELECT {x_label} FROM {x_table} WHERE {x_category} = '{x_value}' "
        "ORDER BY {x_number} DESC LIMIT 1",
        difficulty="simple",
        described=("x",),
    ),
    "total": Kind(
        text="Total {quantity_word} of {links} with {x} of {x_word} {x_value}?",
        gold="SELECT SUM({quantity}) FROM {bridge} WHERE {x_link} IN (" + _OF_VALUE + ")",
        difficulty="moderate",
        described=("bridge",),
    ),
    "flagged": Kind(
        text="How many {flag_word} {links} with {x} of {x_word} {x_value}?",
        gold="SELECT COUNT(*) FROM {bridge} WHERE {flag} = '{form}' AND {x_link} IN ("
        + _OF_VALUE
        + ")",
        difficulty="moderate",
        described=("bridge",),
        flagged=True,
    ),
    "linked": Kind(
        text="Which {y} have {links} with {x} of {x_word} {x_value}?",
        gold="SELECT {y_label} FROM {y_table} WHERE {y_key} IN (SELECT {y_link} FROM {bridge} "
        "WHERE {x_link} IN (" + _OF_VALUE + "))",
        difficulty="moderate",
        described=("bridge", "y"),
    ),
    "linked_flagged": Kind(
        text="Which {y} have {flag_word} {links} with {x} of {x_word} {x_value}?",
        gold="SELECT {y_label} FROM {y_table} WHERE {y_key} IN (SELECT {y_link} FROM {bridge} "
        "WHERE {flag} = '{form}' AND {x_link} IN (" + _OF_VALUE + "))",
        difficulty="challenging",
        described=("bridge", "y"),
        flagged=True,
    ),
    "both": Kind(
        text="Total {quantity_word} of {links} with {x} of {x_word} {x_value} "
        "and {y} of {y_word} {y_value}?",
        gold="SELECT SUM({quantity}) FROM {bridge} WHERE {x_link} IN (" + _OF_VALUE + ") AND "
        "{y_link} IN (" + _OF_VALUE.replace("x_", "y_") + ")",
        difficulty="challenging",
        searched=("x", "y"),
        described=("bridge",),
    ),
}


@dataclass(frozen=True)
class Draft:
    """A question before it has an id."""

    kind: str
    database: Database
    side: Side
    """What x stands for."""
    values: Mapping[str, str]
    """The categories that it names, by x and y."""
    positive: bool
    """Which form of the flag it asks for."""

    def side_of(self, letter: str) -> Side:
        """Return the side that x or y stands for."""
        return self.side if letter == "x" else SIDES[1 - SIDES.index(self.side)]

    @property
    def flag_word(self) -> str:
        """Return the question's word for the form of the flag."""
        return self.database.theme.flag[not self.positive]

    @property
    def text(self) -> str:
        """Return the question."""
        theme = self.database.theme
        words = {
            "links": theme.bridge_word,
            "quantity_word": theme.quantity_word,
            "flag_word": self.flag_word,
        }
        for letter in ("x", "y"):
            entity = self.database.entity(self.side_of(letter))
            words[letter] = entity.word
            words[f"{letter}_word"] = entity.category_word
            words[f"{letter}_number_word"] = entity.number_word
            words[f"{letter}_value"] = self.values[letter]
        return KINDS[self.kind].text.format_map(words)

    def names(self, *, stale: Collection[str] = ()) -> dict[str, str]:
        """Return the text for every brace of a template, from the live tables.

        Args:
            stale: Letters of the sides whose stale copy is taken instead.
        """
        database = self.database
        bridge = database.bridge
        names = {
            "bridge": bridge.table,
            "quantity": bridge.quantity,
            "flag": bridge.flag,
            "form": bridge.forms[not self.positive],
        }
        for letter in ("x", "y"):
            side = self.side_of(letter)
            of = (database.stale if letter in stale else database.live)[side]
            names |= {
                f"{letter}_table": of.table,
                f"{letter}_key": KEY,
                f"{letter}_label": of.label,
                f"{letter}_category": of.category,
                f"{letter}_number": of.number,
                f"{letter}_link": bridge.link[side],
                f"{letter}_value": database.stored[self.values[letter]],
            }
        return names

    def sql(self, names: Mapping[str, str]) -> str:
        """Return the query with these names."""
        return KINDS[self.kind].gold.format_map(names)

    def mistakes(self) -> list[str]:
        """Return the natural mistakes: stale copies, values as asked, the flag's other form."""
        kind, gold = KINDS[self.kind], self.names()
        copies = [letter for letter in ("x", "y") if f"{{{letter}_table}}" in kind.gold]
        mistakes = [gold | {"form": self.database.bridge.forms[self.positive]}] * kind.flagged
        mistakes += [self.names(stale=(letter,)) for letter in copies]
        mistakes += [self.names(stale=copies)]
        mistakes += [gold | {f"{letter}_value": self.values[letter]} for letter in kind.searched]
        return [self.sql(names) for names in mistakes]


def draft_question(
    kind: str,
    database: Database,
    connection: sqlite3.Connection,
    rng: Random,
    asked: Collection[str] = (),
) -> Draft | None:
    """Return a usable question of a kind whose gold is not `asked`, or None when none turns up."""
    for _ in range(_ATTEMPTS):
        side = rng.choice(SIDES)
        x, y = database.entity(side), database.entity(SIDES[1 - SIDES.index(side)])
        draft = Draft(
            kind=kind,
            database=database,
            side=side,
            values={"x": rng.choice(x.values), "y": rng.choice(y.values)},
            positive=rng.random() < 0.5,
        )
        if draft.sql(draft.names()) not in asked and usable(draft, connection):
            return draft
    return None


def usable(draft: Draft, connection: sqlite3.Connection) -> bool:
    """Return whether the gold gives a settled, short, non-empty result, and no mistake does."""
    gold = rows_of(connection, draft.sql(draft.names()))
    if not gold or len(gold) > MOST_RESULT_ROWS or gold in ([(0,)], [(None,)]):
        return False
    return all(
        rows is None or set(rows) != set(gold)
        for rows in (rows_of(connection, sql) for sql in draft.mistakes())
    )


@dataclass(frozen=True)
class WorldQuestion:
    """A question that was kept."""

    question_id: str
    draft: Draft

    @property
    def gold_sql(self) -> str:
        """Return the right query."""
        return self.draft.sql(self.draft.names())

    def record(self) -> dict[str, str]:
        """Return the question in BIRD's format, plus its id and its kind."""
        return {
            "question_id": self.question_id,
            "db_id": self.draft.database.db_id,
            "question": self.draft.text,
            "evidence": "",
            "SQL": self.gold_sql,
            "difficulty": KINDS[self.draft.kind].difficulty,
            "kind": self.draft.kind,
        }

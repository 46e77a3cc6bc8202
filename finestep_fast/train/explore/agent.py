"""A scripted agent: it looks, and writes the query with what it has found and guesses for the rest.

It knows the theme's words, as a trained policy would: what it has not seen it calls by the first of
the names that the database might have used. Guesses that varied would only be noise to imitate.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from finestep_fast.train.explore.databases import Names
from finestep_fast.train.explore.questions import KINDS, Draft
from finestep_fast.train.explore.words import (
    FLAGS,
    FORMS,
    KEY,
    LABELS,
    LINK_ENDINGS,
)
from finestep_fast.train.generated.calls import Call, list_tables, look, run, search_values

LIST, BRIDGE, FORM = "list", "bridge", "form"
"""Looks that an agent can take: the list of tables, the bridge's columns, the flag's forms; others
are `search` or `describe` with x or y."""


def needed_looks(kind: str) -> list[str]:
    """Return the looks that a question needs, in the order in which they are of use."""
    needs = KINDS[kind]
    looks = [f"search {letter}" for letter in needs.searched]
    if BRIDGE in needs.described:
        looks = [LIST, BRIDGE, *looks]
    looks += [f"describe {letter}" for letter in needs.described if letter != BRIDGE]
    return looks + [FORM] * needs.flagged


class Agent:
    """What one agent has seen of its database.

    Args:
        draft: The question.
        rng: Of what it takes for the live table before it knows.
    """

    def __init__(self, draft: Draft, rng: Random) -> None:
        self.draft, self.rng = draft, rng
        self.listed = self.formed = False
        self.searched: set[str] = set()
        self.described: set[str] = set()
        # Without a look there is nothing to tell a stale copy from the live table.
        self.hunch = {letter: rng.random() < 0.5 for letter in "xy"}

    def take(self, look_name: str) -> list[Call]:
        """Take a look and keep what it shows; returns its calls."""
        return _LOOKS[look_name.split()[0]](self, look_name.split()[-1])

    def sql(self) -> str:
        """Return the query as far as the agent knows it."""
        return self.draft.sql(self.names())

    def names(self) -> dict[str, str]:
        """Return a name for every brace of the query: seen or guessed."""
        database = self.draft.database
        bridge, theme = database.bridge, database.theme
        seen = bridge.table in self.described
        names = {
            "bridge": bridge.table if self.listed or seen else theme.bridge[0],
            "quantity": bridge.quantity if seen else theme.quantity[0],
            "flag": bridge.flag if seen else FLAGS[0],
            "form": (bridge.forms if self.formed else FORMS[0])[not self.draft.positive],
        }
        for letter in "xy":
            side = self.draft.side_of(letter)
            entity, value = database.entity(side), self.draft.values[letter]
            of, is_live = self.believed(letter)
            found = letter in self.searched
            described = of.table in self.described
            named = self.listed or found or described or (seen and is_live)
            table = of.table if named else entity.tables[0]
            names |= {
                f"{letter}_table": table,
                f"{letter}_key": KEY,
                f"{letter}_label": of.label if described else LABELS[0],
                f"{letter}_category": of.category if described or found else entity.category[0],
                f"{letter}_number": of.number if described else entity.number[0],
                f"{letter}_link": bridge.link[side] if seen else f"{table}_{LINK_ENDINGS[0]}",
                f"{letter}_value": database.stored[value] if found else value,
            }
        return names

    def believed(self, letter: str) -> tuple[Names, bool]:
        """Return the table that the agent takes for the live one, and whether it is."""
        side, database = self.draft.side_of(letter), self.draft.database
        live, stale = database.live[side], database.stale[side]
        # A primary key, its absence, or a foreign key tells.
        tells = {live.table, stale.table, database.bridge.table}
        is_live = self.hunch[letter] or bool(tells & self.described)
        return (live if is_live else stale), is_live

    def look_at(self, table: str) -> Call:
        """Read a table's columns."""
        self.described.add(table)
        return look(table)

    def take_list(self, _: str) -> list[Call]:
        """List the tables."""
        self.listed = True
        return [list_tables()]

    def take_bridge(self, _: str) -> list[Call]:
        """Read the bridge's columns."""
        return [self.look_at(self.names()["bridge"])]

    def take_search(self, letter: str) -> list[Call]:
        """Search for the value that the question names."""
        self.searched.add(letter)
        return [search_values(self.draft.values[letter])]

    def take_describe(self, letter: str) -> list[Call]:
        """Look at the table believed live; if it has no primary key, the other one is it."""
        calls = [self.look_at(self.names()[f"{letter}_table"])]
        side = self.draft.side_of(letter)
        was_stale = calls[0].arguments["table"] == self.draft.database.stale[side].table
        if was_stale:
            calls.append(self.look_at(self.draft.database.live[side].table))
        return calls

    def take_form(self, _: str) -> list[Call]:
        """See the forms of the flag."""
        names, bridge = self.names(), self.draft.database.bridge
        self.formed = (names["flag"], names["bridge"]) == (bridge.flag, bridge.table)
        return [run(f"SELECT DISTINCT {names['flag']} FROM {names['bridge']}")]


_LOOKS: dict[str, Callable[[Agent, str], list[Call]]] = {
    LIST: Agent.take_list,
    BRIDGE: Agent.take_bridge,
    "search": Agent.take_search,
    "describe": Agent.take_describe,
    FORM: Agent.take_form,
}

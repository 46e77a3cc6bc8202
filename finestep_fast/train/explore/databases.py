"""One database of the explore world: what each table calls things, and its rows.

A theme's two entities have a live table and a stale copy each: the copy has other rows, no primary
key, and other names for label and number, and nothing points to it. A bridge links the live tables.
A category is stored with a digit that no question says and that each database has for itself, a
flag in one of several forms. The first entity also has a column of the second one's categories,
which means something else. Other tables are there to mislead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from finestep_fast.train.explore.words import (
    FLAGS,
    FORMS,
    KEY,
    LABELS,
    LINK_ENDINGS,
    OTHERS,
    Entity,
    Theme,
)
from finestep_fast.train.generated.rows import Cell

Side = Literal["first", "second"]
SIDES: tuple[Side, ...] = ("first", "second")
_FEWEST_OTHERS, _MOST_OTHERS = 1, 3


@dataclass(frozen=True)
class Names:
    """What one table of an entity is called, and what it calls its columns."""

    table: str
    label: str
    category: str
    number: str


@dataclass(frozen=True)
class Bridge:
    """What the bridge is called, what it calls its columns, how it stores its flag."""

    table: str
    link: dict[Side, str]
    quantity: str
    flag: str
    forms: tuple[str, str]


@dataclass(frozen=True)
class Table:
    """A table as SQL creates it."""

    name: str
    declared: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Database:
    """A generated database: names, and tables in the order in which they are listed."""

    db_id: str
    theme: Theme
    stored: dict[str, str]
    """Category as questions say it -> as the database stores it."""
    live: dict[Side, Names]
    stale: dict[Side, Names]
    bridge: Bridge
    others: tuple[str, ...]
    tables: tuple[Table, ...]

    def entity(self, side: Side) -> Entity:
        """Return the words of one side."""
        return self.theme.first if side == "first" else self.theme.second

    def connect(self) -> sqlite3.Connection:
        """Return a connection to a fresh in-memory copy; the caller closes it."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.execute("BEGIN")
        for table in self.tables:
            connection.execute(f"CREATE TABLE {table.name} ({', '.join(table.declared)})")
            holes = ", ".join("?" * len(table.declared))
            connection.executemany(f"INSERT INTO {table.name} VALUES ({holes})", table.rows)
        connection.execute("COMMIT")
        return connection


def make_database(
    theme: Theme, *, db_id: str, rng: Random, entity_rows: int, bridge_rows: int
) -> Database:
    """Return a database of a theme; everything random in it follows from `rng`."""
    live: dict[Side, Names] = {}
    stale: dict[Side, Names] = {}
    tables: list[Table] = []
    values = sorted({*theme.first.values, *theme.second.values})
    stored = {value: f"{value} {rng.randint(1, 9)}" for value in values}
    # A category's column has the same name in every table of a database.
    categories = _distinct(rng, theme.first.category, theme.second.category)
    for side, entity, category in zip(SIDES, (theme.first, theme.second), categories, strict=True):
        for kind, name in zip((live, stale), rng.sample(entity.tables, 2), strict=True):
            label, number = _distinct(rng, LABELS, entity.number, taken=categories)
            kind[side] = Names(name, label, category, number)
            tables.append(
                _entity_table(kind[side], entity, stored, entity_rows, rng, is_live=kind is live)
            )
        if side == "first":
            cells = [stored[rng.choice(theme.second.values)] for _ in range(entity_rows)]
            tables[0] = _with_column(tables[0], f"{categories[1]} TEXT", cells)
    quantity, flag = _distinct(rng, theme.quantity, FLAGS)
    ending = rng.choice(LINK_ENDINGS)
    bridge = Bridge(
        table=rng.choice(theme.bridge),
        link={side: f"{live[side].table}_{ending}" for side in SIDES},
        quantity=quantity,
        flag=flag,
        forms=rng.choice(FORMS),
    )
    tables.append(_bridge_table(bridge, live, entity_rows, bridge_rows, rng))
    others = tuple(rng.sample(OTHERS, rng.randint(_FEWEST_OTHERS, _MOST_OTHERS)))
    tables += [_other_table(name, theme, entity_rows, rng) for name in others]
    rng.shuffle(tables)
    return Database(db_id, theme, stored, live, stale, bridge, others, tuple(tables))


def _distinct(rng: Random, *pools: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Return a word of each pool, no two alike and none that is taken."""
    chosen: list[str] = []
    for pool in pools:
        free = [word for word in pool if word not in chosen and word not in taken]
        chosen.append(rng.choice(free))
    return chosen


def _entity_table(
    names: Names, entity: Entity, stored: dict[str, str], count: int, rng: Random, *, is_live: bool
) -> Table:
    columns: list[tuple[str, Sequence[Cell]]] = [
        (f"{names.label} TEXT", rng.sample(entity.labels, count)),
        (
            f"{names.category} TEXT",
            [stored[rng.choice(entity.values)] for _ in range(count)],
        ),
        (f"{names.number} INTEGER", rng.sample(range(10, 100), count)),
    ]
    rng.shuffle(columns)
    key = f"{KEY} INTEGER" + (" PRIMARY KEY" if is_live else "")
    return _table(names.table, [(key, range(1, count + 1)), *columns])


def _bridge_table(
    bridge: Bridge, live: dict[Side, Names], num_entities: int, count: int, rng: Random
) -> Table:
    columns: list[tuple[str, Sequence[Cell]]] = [
        (
            f"{bridge.link[side]} INTEGER REFERENCES {live[side].table}({KEY})",
            [rng.randint(1, num_entities) for _ in range(count)],
        )
        for side in SIDES
    ]
    columns.append((f"{bridge.quantity} INTEGER", [rng.randint(1, 60) for _ in range(count)]))
    columns.append((f"{bridge.flag} TEXT", [rng.choice(bridge.forms) for _ in range(count)]))
    rng.shuffle(columns)
    return _table(bridge.table, columns)


def _other_table(name: str, theme: Theme, count: int, rng: Random) -> Table:
    label, number, flag = _distinct(rng, LABELS, theme.quantity, FLAGS)
    forms = rng.choice(FORMS)
    return _table(
        name,
        [
            (f"{KEY} INTEGER PRIMARY KEY", range(1, count + 1)),
            (f"{label} TEXT", rng.sample(theme.first.labels, count)),
            (f"{number} INTEGER", [rng.randint(1, 60) for _ in range(count)]),
            (f"{flag} TEXT", [rng.choice(forms) for _ in range(count)]),
        ],
    )


def _table(name: str, columns: Sequence[tuple[str, Sequence[Cell]]]) -> Table:
    declared = tuple(declaration for declaration, _ in columns)
    return Table(name, declared, tuple(zip(*(cells for _, cells in columns), strict=True)))


def _with_column(table: Table, declaration: str, cells: Sequence[Cell]) -> Table:
    rows = tuple((*row, cell) for row, cell in zip(table.rows, cells, strict=True))
    return Table(table.name, (*table.declared, declaration), rows)

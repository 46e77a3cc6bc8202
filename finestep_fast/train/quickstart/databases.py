"""One generated SQLite database: its columns, how it spells them, and its rows.

A database has a main table and a child table that refers to it. All its columns follow one
naming style, which neither the table names nor the `db_id` give away: the way to learn it is
to look. The data are as awkward as real ones: NULLs, repeated rows, dates kept as text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from finestep_fast.train.generated.rows import Cell
from finestep_fast.train.quickstart.themes import Theme

Style = Literal["plain", "suffixed", "mixed", "quoted"]
STYLES: tuple[Style, ...] = ("plain", "suffixed", "mixed", "quoted")

FIRST_YEAR, LAST_YEAR = 2019, 2024
MOST_MAIN_ROWS = 40  # a theme has that many labels


@dataclass(frozen=True)
class Column:
    """A column by what it means; `column_name` says how a style spells it."""

    word: str
    """What questions call it; the whole name in the plain style."""
    stem: str
    suffix: Literal["id", "name", "val", "day"]
    """The two words of its name in the other styles; the suffix follows the type."""

    @property
    def sql_type(self) -> str:
        """Return the declared type."""
        return "INTEGER" if self.suffix in ("id", "val") else "TEXT"


KEY = Column("id", "row", "id")
LABEL = Column("name", "full", "name")


def column_name(column: Column, style: Style) -> str:
    """Return the column's name as SQL needs it, with quotes only in the quoted style."""
    if style == "plain":
        return column.word
    if style == "suffixed":
        return f"{column.stem}_{column.suffix}"
    if style == "mixed":
        return column.stem.capitalize() + column.suffix.capitalize()
    return f'"{column.stem} {column.suffix}"'


@dataclass(frozen=True)
class Database:
    """A generated database: words and rows; `connect` makes it a SQLite one.

    SQL about it is kept as a template whose columns stand in braces by their word, as in
    `SELECT {name} FROM books`, and `spelled` out in any style.
    """

    db_id: str
    style: Style
    main_table: str
    child_table: str
    main_columns: tuple[Column, ...]
    child_columns: tuple[Column, ...]
    main_rows: tuple[tuple[Cell, ...], ...]
    child_rows: tuple[tuple[Cell, ...], ...]

    @property
    def text_words(self) -> list[str]:
        """Return the words of the main table's text columns other than its label."""
        return [c.word for c in self.main_columns if c.suffix == "name" and c is not LABEL]

    @property
    def number_words(self) -> list[str]:
        """Return the words of the main table's number columns."""
        return [c.word for c in self.main_columns if c.suffix == "val"]

    def child_word(self, suffix: str) -> str:
        """Return the word of the child table's only column with this suffix."""
        (word,) = [c.word for c in self.child_columns if c.suffix == suffix]
        return word

    def values(self, word: str) -> list[Cell]:
        """Return the values other than NULL of the column with this word, in row order."""
        for columns, rows in (
            (self.main_columns, self.main_rows),
            (self.child_columns, self.child_rows),
        ):
            for index, column in enumerate(columns):
                if column.word == word:
                    return [row[index] for row in rows if row[index] is not None]
        raise KeyError(word)

    def spelled(self, template: str, style: Style) -> str:
        """Return the SQL of a template with its columns spelled in a style."""
        columns = (*self.main_columns, *self.child_columns)
        return template.format_map({c.word: column_name(c, style) for c in columns})

    def connect(self) -> sqlite3.Connection:
        """Return a connection to a fresh in-memory copy; the caller closes it."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.execute("BEGIN")
        foreign_key = {
            self.child_columns[0].word: f" REFERENCES {self.main_table}({{{KEY.word}}})",
            KEY.word: " PRIMARY KEY",
        }
        self._fill(connection, self.main_table, self.main_columns, self.main_rows, foreign_key)
        self._fill(connection, self.child_table, self.child_columns, self.child_rows, foreign_key)
        connection.execute("COMMIT")
        return connection

    def _fill(
        self,
        connection: sqlite3.Connection,
        table: str,
        columns: Sequence[Column],
        rows: Sequence[tuple[Cell, ...]],
        constraints: Mapping[str, str],
    ) -> None:
        declared = ", ".join(
            f"{{{c.word}}} {c.sql_type}{constraints.get(c.word, '')}" for c in columns
        )
        connection.execute(self.spelled(f"CREATE TABLE {table} ({declared})", self.style))
        holes = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO {table} VALUES ({holes})", rows)


def make_database(
    theme: Theme,
    *,
    db_id: str,
    style: Style,
    rng: Random,
    num_main_rows: int,
    num_child_rows: int,
    null_share: float,
    duplicate_share: float,
) -> Database:
    """Return a database of a theme; its words and rows depend on `rng`, not on the style."""
    main_table, singular = rng.choice(theme.main_tables)
    child_table = rng.choice(theme.child_tables)
    others = [Column(word, word, "name") for word in theme.text]
    others += [Column(word, word, "val") for word in rng.sample(sorted(theme.number), 3)]
    rng.shuffle(others)
    main_columns = (KEY, LABEL, *others)
    cells: list[list[Cell]] = [
        list(range(1, num_main_rows + 1)),
        list(rng.sample(theme.labels, num_main_rows)),
    ]
    cells += [_main_cells(theme, column, num_main_rows, rng) for column in others]
    for suffix in ("name", "val"):
        _plant_nulls(
            rng.choice([c for o, c in zip(others, cells[2:], strict=True) if o.suffix == suffix]),
            null_share,
            rng,
        )
    text_word, text_values = theme.child_text
    number_word, number_range = theme.child_number
    child_cells: list[list[Cell]] = [
        [rng.randint(1, num_main_rows) for _ in range(num_child_rows)],
        [_date(rng) for _ in range(num_child_rows)],
        [_number(number_range, rng) for _ in range(num_child_rows)],
        [rng.choice(text_values) for _ in range(num_child_rows)],
    ]
    _plant_nulls(child_cells[2], null_share, rng)
    child_rows = list(zip(*child_cells, strict=True))
    num_copies = max(1, round(duplicate_share * num_child_rows))
    for index in sorted(rng.sample(range(1, num_child_rows), num_copies)):
        child_rows[index] = child_rows[rng.randrange(index)]
    return Database(
        db_id=db_id,
        style=style,
        main_table=main_table,
        child_table=child_table,
        main_columns=main_columns,
        child_columns=(
            Column(singular, singular, "id"),
            Column(theme.child_date, theme.child_date, "day"),
            Column(number_word, number_word, "val"),
            Column(text_word, text_word, "name"),
        ),
        main_rows=tuple(zip(*cells, strict=True)),
        child_rows=tuple(child_rows),
    )


def _main_cells(theme: Theme, column: Column, count: int, rng: Random) -> list[Cell]:
    if column.suffix == "name":
        return [rng.choice(theme.text[column.word]) for _ in range(count)]
    return [_number(theme.number[column.word], rng) for _ in range(count)]


def _number(bounds: tuple[int, int], rng: Random) -> int:
    """Return a multiple of five in [low, high], small ones more often than large ones."""
    low, high = bounds
    return low + 5 * int(((high - low) // 5 + 1) * rng.random() ** 2)


def _date(rng: Random) -> str:
    year, month, day = rng.randint(FIRST_YEAR, LAST_YEAR), rng.randint(1, 12), rng.randint(1, 28)
    return f"{year}-{month:02d}-{day:02d}"


def _plant_nulls(cells: list[Cell], share: float, rng: Random) -> None:
    """Make a share of the cells NULL in place, at least one."""
    for index in rng.sample(range(len(cells)), max(1, round(share * len(cells)))):
        cells[index] = None

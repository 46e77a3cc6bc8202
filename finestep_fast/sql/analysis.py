"""What a query says: its normal form, and which tables and columns it names.

Not an execution and no judgement of meaning: two queries with different normal forms may well be
equivalent. It never fails: a query that cannot be parsed has a cruder normal form and no names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

from finestep_fast.sql import lexer
from finestep_fast.sql.resolution import Reading
from finestep_fast.sql.schema import DatabaseSchema

MAX_PARSED_CHARS = 20_000
MAX_REMEMBERED = 16_384


class AsWritten(SQLite):
    """SQLite, with as written what sqlglot takes for something else of another value.

    Those are paths into JSON, `mod`, which is no `%` (7 % 2.5 is 1.0), and the type STRING, which
    is no TEXT but of numeric affinity.
    """

    class Tokenizer(SQLite.Tokenizer):
        """Without the word STRING."""

        KEYWORDS: ClassVar = {k: v for k, v in SQLite.Tokenizer.KEYWORDS.items() if k != "STRING"}

    class Parser(SQLite.Parser):  # type: ignore[valid-type, misc]
        """Without the function `mod`."""

        FUNCTIONS: ClassVar = {k: v for k, v in SQLite.Parser.FUNCTIONS.items() if k != "MOD"}
        SUPPORTS_USER_DEFINED_TYPES = True

    def to_json_path(self, path: exp.Expr | None) -> exp.Expr | None:
        """The path as it is."""
        return path


DIALECT = AsWritten()
# What sqlglot and a walk over its trees raise on text that is no SQL, besides sqlglot's own errors.
PARSING_ERRORS = (
    SqlglotError,
    RecursionError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
)


_is_ours: ContextVar[bool] = ContextVar("_is_ours", default=False)
logging.getLogger("sqlglot").addFilter(lambda record: not _is_ours.get())


@contextmanager
def quiet_sqlglot() -> Iterator[None]:
    """A block in which sqlglot logs nothing: what it cannot read is none of the user's making."""
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """What a query says.

    Attributes:
        normal_form: Equal for queries that differ only in white space, comments, letter case of
            keywords and names, quotes around names, redundant parentheses, and aliases.
            Without a parse it keeps parentheses and aliases.
        tables: Tables of the database that the query names, as the query spells them, folded.
        columns: Columns it names: `table.column` where the table is known, else as written. Names
            that the query gives itself are not among them.
        missing: Those of `tables` and `columns` that do not exist.
        parsed: Whether the query could be parsed as SQLite does; if not, there are no names.
    """

    normal_form: str
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    parsed: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """The tables and columns the query names."""
        return self.tables + self.columns

    @property
    def existing(self) -> tuple[str, ...]:
        """Those of them that exist."""
        return tuple(name for name in self.named if name not in self.missing)


@lru_cache(maxsize=MAX_REMEMBERED)
def analyse(sql: str, schema: DatabaseSchema) -> QueryFacts:
    """The facts of one query on one database; remembered, and never an exception.

    An unqualified name in double quotes that is no column, where a value is expected, is a string,
    as SQLite has it.
    """
    query = parsed_query(sql)
    if query is not None:
        reading = Reading(schema.columns_by_table)
        try:
            with quiet_sqlglot():
                normal_form = reading.text_of_query(query)
        except PARSING_ERRORS:
            pass
        else:
            return QueryFacts(
                normal_form,
                tuple(reading.tables),
                tuple(reading.columns),
                tuple(reading.missing),
                parsed=True,
            )
    return QueryFacts(lexer.folded_text(sql))


@lru_cache(maxsize=MAX_REMEMBERED)
def outermost_order(sql: str) -> bool:
    """Whether the outermost SELECT of a query orders its rows; never an exception."""
    query = parsed_query(sql)
    if query is None:
        return lexer.orders_outermost(sql)
    while isinstance(query, (exp.Subquery, exp.Paren)) and query.args.get("order") is None:
        query = query.this
    return query.args.get("order") is not None


def parsed_query(sql: str) -> exp.Expr | None:
    """The tree of a text that holds exactly one query; none for anything else."""
    if len(sql) > MAX_PARSED_CHARS:
        return None
    try:
        with quiet_sqlglot():
            statements = [tree for tree in DIALECT.parse(sql) if tree is not None]
    except PARSING_ERRORS:
        return None
    if len(statements) != 1 or not isinstance(statements[0], (exp.Query, exp.Values)):
        return None
    return statements[0]

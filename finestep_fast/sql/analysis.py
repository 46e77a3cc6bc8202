"""What a query says: its normal form, which tables and columns it names, and its literals.

Not an execution and no judgement of meaning: two queries with different normal forms may well be
equivalent. It never fails: a query that cannot be parsed has a cruder normal form and no names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sqlglot import exp

from finestep_fast.sql import lexer
from finestep_fast.sql.parsing import UnreadableError, parsed_query
from finestep_fast.sql.resolution import Reading
from finestep_fast.sql.schema import DatabaseSchema

MAX_REMEMBERED = 16_384


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """What a query says."""

    normal_form: str
    """Equal for queries that differ only in white space, comments, letter case of keywords and
    names, quotes around names, redundant parentheses, and aliases. Without a parse it keeps
    parentheses and aliases."""
    tables: tuple[str, ...] = ()
    """Tables of the database that the query names, as the query spells them, folded."""
    columns: tuple[str, ...] = ()
    """Columns it names: `table.column` where the table is known, else as written. Names that the
    query gives itself are not among them."""
    missing: tuple[str, ...] = ()
    """Those of `tables` and `columns` that do not exist."""
    literals: tuple[str | int | float, ...] = ()
    """Strings and numbers that the query holds something against, as values, in the order of their
    first mention; a LIKE pattern with its wildcards. Equal numbers are one: 2 is 2.0. Not among
    them are LIMIT, ordinals, and constants that are only computed with or shown."""
    parsed: bool = False
    """Whether the query could be parsed as SQLite does; if not, there are no names."""

    @property
    def named(self) -> tuple[str, ...]:
        """Return the tables and columns the query names."""
        return self.tables + self.columns

    @property
    def existing(self) -> tuple[str, ...]:
        """Return those of them that exist."""
        return tuple(name for name in self.named if name not in self.missing)


@lru_cache(maxsize=MAX_REMEMBERED)
def analyse(sql: str, schema: DatabaseSchema) -> QueryFacts:
    """Return the facts of one query on one database; remembered, and never an exception.

    An unqualified name in double quotes that is no column, where a value is expected, is a string,
    as SQLite has it.
    """
    query = parsed_query(sql)
    if query is not None:
        reading = Reading(schema.columns_by_table)
        try:
            normal_form = reading.text_of_query(query)
        except (UnreadableError, RecursionError):  # a tree may be as deep as its text is long
            pass
        else:
            return QueryFacts(
                normal_form,
                tuple(reading.tables),
                tuple(reading.columns),
                tuple(reading.missing),
                tuple(reading.literals),
                parsed=True,
            )
    return QueryFacts(lexer.folded_text(sql))


@lru_cache(maxsize=MAX_REMEMBERED)
def outermost_order(sql: str) -> bool:
    """Return whether the outermost SELECT of a query orders its rows; never an exception."""
    query = parsed_query(sql)
    if query is None:
        return lexer.orders_outermost(sql)
    while isinstance(query, (exp.Subquery, exp.Paren)) and query.args.get("order") is None:
        query = query.this
    return query.args.get("order") is not None

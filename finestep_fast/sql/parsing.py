"""SQL text as a tree of sqlglot's, in a dialect that keeps what SQLite would read differently.

The only module that runs sqlglot, and so the only one that expects it to fail: on text that is no
SQL it raises nearly anything. What reads the trees (`resolution`) raises its own bugs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

MAX_PARSED_CHARS = 20_000


class AsWritten(SQLite):
    """SQLite, without the rewriting by which sqlglot changes the value of an expression.

    It keeps paths into JSON, `mod`, which is no `%` (7 % 2.5 is 1.0), and the type STRING, which
    is no TEXT but has numeric affinity.
    """

    class Tokenizer(SQLite.Tokenizer):
        """SQLite's, without the word STRING."""

        KEYWORDS: ClassVar = {k: v for k, v in SQLite.Tokenizer.KEYWORDS.items() if k != "STRING"}

    class Parser(SQLite.Parser):  # type: ignore[valid-type, misc]
        """SQLite's, without the function `mod`."""

        FUNCTIONS: ClassVar = {k: v for k, v in SQLite.Parser.FUNCTIONS.items() if k != "MOD"}
        SUPPORTS_USER_DEFINED_TYPES = True

    def to_json_path(self, path: exp.Expr | None) -> exp.Expr | None:
        """Return the path unchanged."""
        return path


DIALECT = AsWritten()
SQLGLOT_ERRORS = (
    SqlglotError,
    RecursionError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
)
"""What sqlglot raises on text that is no SQL, besides its own errors."""

_is_ours: ContextVar[bool] = ContextVar("_is_ours", default=False)
logging.getLogger("sqlglot").addFilter(lambda record: not _is_ours.get())


class UnreadableError(Exception):
    """A query whose tree is not what SQLite would read, or cannot be written as text again."""


@contextmanager
def quiet_sqlglot() -> Iterator[None]:
    """Keep sqlglot from logging: users did not write the queries that it cannot read."""
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)


def parsed_query(sql: str) -> exp.Expr | None:
    """Return the tree of a text that holds exactly one query; None for any other text."""
    if len(sql) > MAX_PARSED_CHARS:
        return None
    try:
        with quiet_sqlglot():
            statements = [tree for tree in DIALECT.parse(sql) if tree is not None]
    except SQLGLOT_ERRORS:
        return None
    if len(statements) != 1 or not isinstance(statements[0], (exp.Query, exp.Values)):
        return None
    return statements[0]


def text_of(node: exp.Expr) -> str:
    """Return the SQL that sqlglot writes for a node.

    Raises:
        UnreadableError: It cannot write it.
    """
    try:
        with quiet_sqlglot():
            return node.sql()
    except SQLGLOT_ERRORS as error:
        raise UnreadableError(f"sqlglot cannot write a {type(node).__name__}") from error

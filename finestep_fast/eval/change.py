"""How the results of one query under two copies of SQLite differ.

Not a verdict on a prediction: that compares it with its gold query, under one copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from finestep_fast.sql import Result, Row, Status, Value

# Reals that agree to about nine digits differ in their last digits only.
CLOSE = 1e-9
_KINDS = {int: 1, float: 1, str: 2, bytes: 3}  # in the order in which SQLite sorts them


class Change(StrEnum):
    """What is different, the smallest difference first."""

    NONE = "none"
    """The rows are equal, or the query fails in the same way."""
    ORDER = "order of rows"
    """The same rows in another order."""
    LAST_DIGITS = "last digits"
    """The same but for the last digits of reals, and perhaps the order."""
    VALUES = "values"
    """Other rows."""
    STATUS = "status"
    """It fails under one copy, or otherwise than under the other."""


def change_of(one: Result, other: Result) -> Change:
    """Return how two results of a query differ."""
    if one.status is not other.status:
        return Change.STATUS
    if one.status is not Status.OK or one.digest == other.digest:
        return Change.NONE
    if len(one.rows) != len(other.rows):
        return Change.VALUES
    sorted_one, sorted_other = sorted(one.rows, key=row_key), sorted(other.rows, key=row_key)
    if sorted_one == sorted_other:
        return Change.ORDER
    if close(one.rows, other.rows) or close(sorted_one, sorted_other):
        return Change.LAST_DIGITS
    return Change.VALUES


def row_key(row: Row) -> list[tuple[int, Value]]:
    """Return what sorts rows of any values."""
    return [(0, 0) if value is None else (_KINDS[type(value)], value) for value in row]


def close(one: Sequence[Row], other: Sequence[Row]) -> bool:
    """Return whether rows are equal in their order, but for last digits of reals."""
    return all(
        len(row) == len(row_of_other) and all(map(close_values, row, row_of_other))
        for row, row_of_other in zip(one, other, strict=True)
    )


def close_values(one: Value, other: Value) -> bool:
    """Return whether two values are equal, but for the last digits of reals."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=CLOSE)
    return one == other

"""The outcomes of queries and comparisons: values with a sentence each, never exceptions.

Not the verdict on a rollout: the scoring decides which statuses count as failures of the policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from finestep_fast import _core

Value = int | float | str | bytes | None
Row = tuple[Value, ...]


class Status(StrEnum):
    """How a query or a comparison ended; `.sentence` says it in words."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Status:
        """Return a member that is its value as text and carries its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    OK = "ok", "It ran to its end."
    ERROR = "error", "SQLite refused the query or failed while running it."
    TIMEOUT = "timeout", "The query was stopped at its deadline."
    TOO_LARGE = "too_large", "The result, one value of it or the work for it exceeds a limit."
    DENIED = "denied", "The query asks for more than reading the given database."
    DATABASE_UNREADABLE = "database_unreadable", "The database is missing or cannot be read."
    PREDICTED_ERROR = "predicted_error", "The predicted query failed."
    PREDICTED_TIMEOUT = "predicted_timeout", "The predicted query was stopped at its deadline."
    PREDICTED_TOO_LARGE = "predicted_too_large", "The predicted query's result exceeds a limit."
    PREDICTED_DENIED = "predicted_denied", "The predicted query asks for more than reading."
    GOLD_ERROR = "gold_error", "The gold query failed: nothing can be said about the prediction."
    GOLD_TIMEOUT = "gold_timeout", "The gold query was stopped at its deadline."
    GOLD_TOO_LARGE = "gold_too_large", "The gold query's result exceeds a limit."
    GOLD_DENIED = "gold_denied", "The gold query asks for more than reading the database."
    UNDECIDED = "undecided", "Both queries ran; whether they are equal takes too long to find out."

    @property
    def is_infrastructure(self) -> bool:
        """Return whether there is no verdict because the gold query or the database failed."""
        return self is Status.DATABASE_UNREADABLE or self.value.startswith("gold_")

    @property
    def as_predicted(self) -> Status:
        """Return the status of a comparison whose predicted query ended with this status."""
        return PREDICTED_STATUS[self]

    @property
    def as_gold(self) -> Status:
        """Return the status of a comparison whose gold query ended with this status."""
        return GOLD_STATUS[self]


QUERY_STATUS = {status: Status[status.name.upper()] for status in _core.QueryStatus}
"""The status that the compiled module gives a query, by its name."""
PREDICTED_STATUS = {
    Status.OK: Status.OK,
    Status.ERROR: Status.PREDICTED_ERROR,
    Status.TIMEOUT: Status.PREDICTED_TIMEOUT,
    Status.TOO_LARGE: Status.PREDICTED_TOO_LARGE,
    Status.DENIED: Status.PREDICTED_DENIED,
    Status.DATABASE_UNREADABLE: Status.DATABASE_UNREADABLE,
}
GOLD_STATUS = {
    Status.OK: Status.OK,
    Status.ERROR: Status.GOLD_ERROR,
    Status.TIMEOUT: Status.GOLD_TIMEOUT,
    Status.TOO_LARGE: Status.GOLD_TOO_LARGE,
    Status.DENIED: Status.GOLD_DENIED,
    Status.DATABASE_UNREADABLE: Status.DATABASE_UNREADABLE,
}


@dataclass(frozen=True)
class Result:
    """What one query returned."""

    status: Status
    """How the query ended; everything but OK comes with no rows."""
    columns: tuple[str, ...] = ()
    """Names of the columns, as SQLite reports them."""
    rows: tuple[Row, ...] = ()
    """The rows in the order SQLite gave them. Text that is not valid UTF-8 holds lone surrogates in
    place of the bytes that could not be decoded."""
    truncated: bool = False
    """Whether a cap on rows or bytes cut the result short."""
    message: str = ""
    """What went wrong, in SQLite's words where it has some; empty when OK."""
    elapsed_ms: float = 0.0
    """Time from the start of the query to its last row."""
    size_bytes: int = 0
    """About how much memory the rows hold."""
    invalid_utf8: bool = False
    """Whether some text was not valid UTF-8."""

    @cached_property
    def digest(self) -> str:
        """Return a hexadecimal digest of the rows in their order; column names do not matter.

        Two results have the same digest when their rows are equal as Python values, so 1 and 1.0
        agree. A result that is not OK has the empty digest.
        """
        return rows_digest(self.rows) if self.status is Status.OK else ""


@dataclass(frozen=True)
class Match:
    """The verdict on one predicted query beside its gold query, or beside all that are accepted."""

    equal: bool
    """Whether the results are equal under the semantics asked for; never after a failure."""
    status: Status
    """OK when both queries ran, else which query failed, and how. A failure of the gold query is
    reported before one of the prediction."""
    message: str = ""
    """What went wrong; empty when OK."""
    elapsed_ms: float = 0.0
    """Time the predicted query took."""
    score: float = 0.0
    """Under `soft_f1` the F1 in [0, 1]; else 1 if equal and 0 if not."""
    gold_index: int = 0
    """Of several accepted gold queries, the place from 0 of the one this says something of: the
    first that the prediction equals, or else the one that comes closest."""
    golds_failed: int = 0
    """How many of several accepted gold queries failed; all only if the status says so."""


def rows_digest(rows: Sequence[Iterable[Value]]) -> str:
    """Return the digest of rows in their order; equal Python values give equal digests."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        text = repr([int(v) if isinstance(v, float) and v.is_integer() else v for v in row])
        digest.update(text.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()

"""The entries of a batch as an engine takes them: texts, and what is wrong with the others.

Not a check of the queries: what SQLite makes of them is their status.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from finestep_fast.errors import InputError, shown
from finestep_fast.sql.comparison import MOST_THREADS, checked_number, listed
from finestep_fast.sql.outcome import Status

# What an entry of a batch is made of, and the status of an entry in which that part is unusable.
JOB_PARTS = (("database", Status.DATABASE_UNREADABLE), ("query", Status.ERROR))
TRIPLE_PARTS = (
    ("database", Status.DATABASE_UNREADABLE),
    ("predicted query", Status.PREDICTED_ERROR),
    ("gold query", Status.GOLD_ERROR),
)


def fit_to_run(
    entries: Iterable[tuple[object, ...]],
    name: str,
    parts: tuple[tuple[str, Status], ...],
    place_of: Sequence[int] | None = None,
) -> tuple[list[tuple[str, ...]], dict[tuple[int, Status], str]]:
    """Return the entries of a batch as texts, and what is wrong with some of them.

    An empty text, which fails like any other of its kind, stands in for what cannot be run at all.
    Messages count the entries from 0, or as `place_of` does.

    Returns:
        One tuple of texts per entry, and messages by the entry's place and the status it should
        end with.

    Raises:
        InputError: An entry has not as many parts as it must have.
    """
    expected = ", ".join(part for part, _ in parts)
    given = listed(entries)
    if given is None:
        raise InputError(f"{name} is {shown(entries)}; expected tuples of ({expected})")
    fit: list[tuple[str, ...]] = []
    complaints = {}
    paths: set[str] = set()  # of this batch, known to be sound; most come more than once
    queries: set[str] = set()
    for i, entry in enumerate(given):
        if isinstance(entry, tuple) and len(entry) == len(parts) and is_in(entry, paths, queries):
            fit.append(entry)
            continue
        place = i if place_of is None else place_of[i]
        if not isinstance(entry, tuple | list) or len(entry) != len(parts):
            raise InputError(f"{name}[{place}] is {shown(entry)}; expected ({expected})")
        texts = []
        for value, (part, status) in zip(entry, parts, strict=True):
            text, complaint = path_text(value) if part == "database" else query_text(value)
            texts.append(text)
            if complaint:
                complaints[i, status] = f"{name}[{place}]: the {part} {complaint}"
            elif isinstance(value, str):
                (paths if part == "database" else queries).add(value)
        fit.append(tuple(texts))
    return fit, complaints


def is_in(entry: tuple[Any, ...], paths: set[str], queries: set[str]) -> bool:
    """Return whether the path and the queries of an entry are among those given."""
    try:
        return entry[0] in paths and queries.issuperset(entry[1:])
    except TypeError:  # a list or the like, which no set can hold
        return False


def query_text(sql: object) -> tuple[str, str]:
    """Return the query and "", or "" and why it cannot be run at all."""
    if not isinstance(sql, str):
        return "", f"is {shown(sql)}; expected text"
    if "\0" in sql:
        return "", "contains a null character"
    if not sql.isascii():
        try:
            sql.encode()
        except UnicodeEncodeError:
            return "", "is no valid Unicode: surrogates not allowed"
    return sql, ""


def path_text(path: object) -> tuple[str, str]:
    """Return the path as text and "", or "" and why it is none."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return "", f"is {shown(path)}; expected a path"
    text = os.fsdecode(path)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return "", f"is {shown(text)}, which is no valid Unicode"
    return text, ""


def checked_limits(**limits: float) -> None:
    """Raise InputError for a limit that is not a positive number, whole except for times."""
    for name, value in limits.items():
        checked_number(name, value, whole=not name.endswith("_s"))
        if not value > 0 or (name == "workers" and value > MOST_THREADS):
            rule = f"1 to {MOST_THREADS}" if name == "workers" else "a finite number > 0"
            raise InputError(f"{name} is {value}; expected {rule}")

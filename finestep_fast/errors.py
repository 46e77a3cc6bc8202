"""What is raised for a mistake in input or installation; a failed rollout is a status instead."""

from __future__ import annotations

_MOST_CHARS = 120


class FinestepError(Exception):
    """Base of every exception that finestep_fast raises on purpose."""


class InputError(FinestepError, ValueError):
    """A value from outside is wrong; the message names it and says what it must be."""


class BuildError(FinestepError, ImportError):
    """Something asked for is not part of this installation; the message says how to get it."""


def shown(value: object) -> str:
    """Return how a value is written in a message: numbers shortly, long text cut in the middle."""
    if isinstance(value, float):
        return f"{value:g}"
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer of thousands of digits; endless nesting
        return f"a {type(value).__name__} too large to be written out"
    if len(text) <= _MOST_CHARS:
        return text
    part = _MOST_CHARS // 2 - 10
    return f"{text[:part]}...{text[-part:]} ({len(text)} characters)"

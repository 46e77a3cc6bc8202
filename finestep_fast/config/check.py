"""The checks that all settings share; each names field, value and rule. Holds no settings."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

from finestep_fast.errors import InputError, shown

LARGEST = sys.float_info.max
MAX_WHOLE = 2**63 - 1
"""The largest integer that compiled code can take."""


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
) -> None:
    """Refuse what is not a finite number with `low <= value`, `above < value`, `value <= high`.

    Raises:
        InputError: The value breaks the rule.
    """
    rules = [
        f"{sign} {bound:g}"
        for sign, bound in ((">=", low), (">", above), ("<=", high))
        if bound is not None
    ]
    rule = " and ".join(rules) or "finite"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {shown(value)}; it must be a number {rule}")
    inside = (
        -LARGEST <= value <= LARGEST
        and (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
    )
    if not inside:
        raise InputError(f"{name} is {shown(value)}; it must be {rule}")


def check_whole(name: str, value: object, *, low: int, high: int = MAX_WHOLE) -> None:
    """Refuse what is not an integer of at least `low` and at most `high`.

    Raises:
        InputError: The value breaks the rule.
    """
    rule = f"an integer >= {low}"
    if isinstance(value, int) and value > high:
        rule += f" and <= {high}"
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {shown(value)}; it must be {rule}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        InputError: The value is something else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}; it must be true or false")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse what is not one of the choices, and propose the nearest.

    Raises:
        InputError: The value is none of them.
    """
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise InputError(
            f"{name} is {shown(value)}; it must be {listing(known)}{nearest(value, known)}"
        )


def listing(names: Iterable[str]) -> str:
    """Return `'a', 'b' or 'c'`."""
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name that is most like the given one, or ''."""
    close = difflib.get_close_matches(name, list(known), n=1) if isinstance(name, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(where: str, kind: str, name: object, known: Iterable[str]) -> str:
    """Return `where: unknown kind 'name'; did you mean 'x'?`, or the list of what is known."""
    known = list(known)
    guess = nearest(name, known) or f"; it must be {listing(known)}"
    return placed(where, f"unknown {kind} {shown(name)}{guess}")


def placed(where: str, text: str) -> str:
    """Return `where: text`, or the text alone where there is no path."""
    return f"{where}: {text}" if where else text

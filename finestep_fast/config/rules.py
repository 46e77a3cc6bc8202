"""Rules of single fields, written into their types: `steps: Annotated[int, at_least(1)] = 6`.

A field's kind follows from its type (a float is any finite number, an int an integer, a bool a
flag, a Literal a choice; None is allowed where the type says so), its bounds from the annotation.
Fields of other types (text, paths, further settings) have no rule here. Rules that relate several
fields are written by hand in the `__post_init__` of their class, after `check_fields`.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from finestep_fast.config.check import (
    MAX_WHOLE,
    check_choice,
    check_flag,
    check_number,
    check_whole,
)


class Bound(NamedTuple):
    """One bound of a number; a field may have several."""

    kind: Literal["low", "above", "high"]
    """The keyword of `check_number` or `check_whole`."""
    value: float
    """The bound itself."""


def at_least(value: float) -> Bound:
    """Return the rule `value <= field`."""
    return Bound("low", value)


def above(value: float) -> Bound:
    """Return the rule `value < field`, of a float."""
    return Bound("above", value)


def at_most(value: float) -> Bound:
    """Return the rule `field <= value`."""
    return Bound("high", value)


Share = Annotated[float, at_least(0), at_most(1)]
"""A number in [0, 1]."""


def check_fields(settings: Any) -> None:
    """Refuse a dataclass instance in which a field breaks the rule of its type.

    Raises:
        InputError: A field does; the message names it, its value and the rule.
    """
    kind = type(settings)
    if kind not in _CHECKS:
        _CHECKS[kind] = _checks(kind)
    for name, optional, check in _CHECKS[kind]:
        value = getattr(settings, name)
        if value is not None or not optional:
            check(name, value)


def plain_type(hint: Any) -> Any:
    """Return a type without its rules: `int | None` for `Annotated[int, at_least(1)] | None`."""
    kind, optional, _ = _parts(hint)
    return kind | None if optional else kind


def choices(hint: Any) -> tuple[str, ...]:
    """Return the members of a Literal, also of one that may be None; of other types nothing."""
    kind = _parts(hint)[0]
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


_Checks = tuple[tuple[str, bool, Callable[[str, object], None]], ...]

# A dictionary, because settings may be made in code that torch.compile traces: it follows this, but
# looks through functools.cache and fails on reading the types.
_CHECKS: dict[type, _Checks] = {}


def _checks(cls: type) -> _Checks:
    """Return name, whether None is allowed, and check of every field that has a rule."""
    found = []
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        kind, optional, bounds = _parts(hint)
        check = _check(kind, {bound.kind: bound.value for bound in bounds})
        if check is not None:
            found.append((name, optional, check))
    return tuple(found)


def _check(kind: Any, bounds: dict[str, Any]) -> Callable[[str, object], None] | None:
    if kind is float:
        return functools.partial(check_number, **bounds)
    if kind is int:
        return functools.partial(check_whole, **{"low": -MAX_WHOLE, **bounds})
    if kind is bool:
        return check_flag
    if typing.get_origin(kind) is Literal:
        return functools.partial(check_choice, choices=typing.get_args(kind))
    return None


def _parts(hint: Any) -> tuple[Any, bool, tuple[Bound, ...]]:
    """Return the type alone, whether None is allowed beside it, and its bounds."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        if len(members) == 1:
            kind, _, bounds = _parts(members[0])
            return kind, True, bounds
    if typing.get_origin(hint) is Annotated:
        kind, *marks = typing.get_args(hint)
        return kind, False, tuple(mark for mark in marks if isinstance(mark, Bound))
    return hint, False, ()

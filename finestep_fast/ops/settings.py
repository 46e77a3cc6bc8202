"""Settings as rows of numbers, the form in which they pass to the compiled core.

A choice is its index in the `Literal`, True is 1, None is NaN; in the order of the config's fields.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from finestep_fast.config import CreditConfig, LossConfig


def credit_numbers(credit: CreditConfig) -> list[float]:
    """Return the fields of a `CreditConfig`."""
    return [_number(getattr(credit, name), choices) for name, choices in _CREDIT_FIELDS]


def loss_numbers(loss: LossConfig) -> list[float]:
    """Return the fields of a `LossConfig`."""
    return [_number(getattr(loss, name), choices) for name, choices in _LOSS_FIELDS]


def _number(value: Any, choices: tuple[str, ...]) -> float:
    if value is None:
        return math.nan
    return float(choices.index(value)) if choices else float(value)


def _members(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows: `float | None` -> (float, None)."""
    return tuple(member for part in get_args(hint) for member in _members(part)) or (hint,)


def _fields(cls: type[Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Name and choices of each field of a config."""
    hints = get_type_hints(cls)
    named = []
    for field in fields(cls):
        choices = tuple(member for member in _members(hints[field.name]) if isinstance(member, str))
        named.append((field.name, choices))
    return tuple(named)


_CREDIT_FIELDS = _fields(CreditConfig)
_LOSS_FIELDS = _fields(LossConfig)

"""Settings as rows of numbers, the form in which they pass through torch to compiled code.

A choice is its index in the `Literal`, True is 1, None is NaN; in the order of the config's fields.
"""

from __future__ import annotations

import math
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_type_hints

from finestep_fast.config import CreditConfig, LossConfig

Config = TypeVar("Config", CreditConfig, LossConfig)


def credit_numbers(credit: CreditConfig) -> list[float]:
    """Return the fields of a `CreditConfig`."""
    return [_number(getattr(credit, name), choices) for name, choices in _CREDIT_FIELDS]


def loss_numbers(loss: LossConfig) -> list[float]:
    """Return the fields of a `LossConfig`."""
    return [_number(getattr(loss, name), choices) for name, choices in _LOSS_FIELDS]


def as_numbers(value: Any) -> Any:
    """Return the fields of a config, and anything else as it is."""
    if isinstance(value, CreditConfig):
        return credit_numbers(value)
    return loss_numbers(value) if isinstance(value, LossConfig) else value


def from_numbers(cls: type[Config], numbers: list[float] | Config) -> Config:
    """Return the config that these numbers came from, or that was never turned into any."""
    if isinstance(numbers, cls):
        return numbers
    assert isinstance(numbers, list)
    config = _from_numbers(
        cls.__name__, tuple(None if math.isnan(number) else number for number in numbers)
    )
    assert isinstance(config, cls)
    return config


@lru_cache(maxsize=64)
def _from_numbers(name: str, numbers: tuple[float | None, ...]) -> CreditConfig | LossConfig:
    cls = {"CreditConfig": CreditConfig, "LossConfig": LossConfig}[name]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for (field, choices), number in zip(_fields(cls), numbers, strict=True):
        if number is None:
            values[field] = None
        elif choices:
            values[field] = choices[int(number)]
        else:
            exact = next((kind for kind in (bool, int) if kind in _members(hints[field])), float)
            values[field] = exact(number)
    made: CreditConfig | LossConfig = cls(**values)
    return made


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

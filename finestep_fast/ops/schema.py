"""From bundles of arguments to the flat ones of an operator of torch, and back.

An operator takes tensors and plain values side by side. Which ones, under which names and in which
order is derived here from the annotations of a named tuple, and nowhere else: bundles inside it, a
`StepBatch` and configs are spelled out field by field, `batch_step_start` or `loss_clip_low`. Only
traced calls go this way; others pass the bundles as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from finestep_fast.batch import SIZES, StepBatch, of_parts

Bundle = TypeVar("Bundle", bound=tuple[Any, ...])

_TYPES = {
    Tensor: "Tensor",
    int: "SymInt",
    float: "float",
    bool: "bool",
    str: "str",
    torch.dtype: "ScalarType",
}


class _Form(NamedTuple):
    """How one value is passed."""

    parameters: tuple[tuple[str, str], ...]
    """(name, type) of each flat argument."""
    flat: Callable[[Any], tuple[Any, ...]]
    """From the value to the flat arguments."""
    value: Callable[[Sequence[Any]], Any]
    """Back."""


class Schema(Generic[Bundle]):
    """The flat arguments of an operator that takes a named tuple of this kind."""

    def __init__(self, kind: type[Bundle]) -> None:
        """Derive them.

        Args:
            kind: A named tuple; its fields are tensors, plain values, bundles, configs or a
                `StepBatch`, or one of the first two or None.
        """
        self._form = _form("", kind)
        self.names = tuple(name for name, _ in self._form.parameters)
        self.text = ", ".join(f"{kind} {name}" for name, kind in self._form.parameters)

    def flat(self, arguments: Bundle) -> tuple[Any, ...]:
        """Return the flat arguments in the order of `text`."""
        return self._form.flat(arguments)

    def bundled(self, flat: Sequence[Any]) -> Bundle:
        """Return the bundle that these flat arguments came from."""
        arguments: Bundle = self._form.value(flat)
        return arguments

    def by_name(self, flat: Sequence[Any]) -> dict[str, Any]:
        """Return the flat arguments by their names."""
        return dict(zip(self.names, flat, strict=True))


def _form(name: str, hint: Any) -> _Form:
    members = set(_members(hint))
    is_optional = NoneType in members
    members.discard(NoneType)
    if members == {float, Tensor}:
        return _number_or_tensor(name)
    if all(isinstance(member, str) for member in members):
        return _plain(name, "str", is_optional=is_optional)
    (kind,) = members
    if kind in _TYPES:
        return _plain(name, _TYPES[kind], is_optional=is_optional)
    hints = get_type_hints(kind)
    if kind is StepBatch:
        parts = {field.name: hints[field.name] for field in fields(kind)}
        return _fields(name, parts | SIZES, of_parts)
    if is_dataclass(kind):
        parts = {field.name: hints[field.name] for field in fields(kind)}
        return _fields(name, parts, _cached(kind))
    return _fields(name, hints, kind)


def _members(hint: Any) -> Iterator[Any]:
    """Yield the types and literals that a hint allows: `float | None` -> float, NoneType."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_args(hint):
        for part in get_args(hint):
            yield from _members(part)
    else:
        yield hint


def _plain(name: str, kind: str, *, is_optional: bool) -> _Form:
    def flat(value: Any) -> tuple[Any, ...]:
        return (float(value) if kind == "float" and value is not None else value,)

    return _Form(((name, kind + "?" * is_optional),), flat, lambda flat: flat[0])


def _number_or_tensor(name: str) -> _Form:
    def flat(value: Any) -> tuple[Any, ...]:
        if isinstance(value, Tensor):
            return value, None
        return None, None if value is None else float(value)

    def value(flat: Sequence[Any]) -> Any:
        tensor, number = flat
        return number if tensor is None else tensor

    return _Form(((f"{name}_tensor", "Tensor?"), (name, "float?")), flat, value)


def _fields(name: str, hints: Mapping[str, Any], build: Callable[..., Any]) -> _Form:
    """The form of what has these attributes, and is built from them by name."""
    prefix = f"{name}_" if name else ""
    forms = {field: _form(prefix + field, hint) for field, hint in hints.items()}

    def flat(value: Any) -> tuple[Any, ...]:
        parts: list[Any] = []
        for field, form in forms.items():
            parts.extend(form.flat(getattr(value, field)))
        return tuple(parts)

    def value(flat: Sequence[Any]) -> Any:
        parts, rest = {}, iter(flat)
        for field, form in forms.items():
            parts[field] = form.value([next(rest) for _ in form.parameters])
        return build(**parts)

    parameters = tuple(each for form in forms.values() for each in form.parameters)
    return _Form(parameters, flat, value)


def _cached(kind: Any) -> Callable[..., Any]:
    """Return the constructor of a config, which checks every field, once for the same values."""

    @lru_cache(maxsize=64)
    def build(*values: tuple[str, Any]) -> Any:
        return kind(**dict(values))

    return lambda **parts: build(*parts.items())


def set_apart(arguments: Bundle) -> tuple[Bundle, list[Tensor]]:
    """Return a bundle with a mark in place of each tensor, and the tensors, for autograd to save.

    A `StepBatch` stays where it is.
    """
    tensors: list[Tensor] = []
    marked: Bundle = _marked(arguments, tensors)
    return marked, tensors


def put_back(marked: Bundle, tensors: Sequence[Tensor]) -> Bundle:
    """Return the bundle that was set apart."""
    arguments: Bundle = _filled(marked, iter(tensors))
    return arguments


_MARK = object()


def _marked(arguments: Any, tensors: list[Tensor]) -> Any:
    parts: list[Any] = []
    for part in arguments:
        if isinstance(part, tuple):
            parts.append(_marked(part, tensors))
        elif isinstance(part, Tensor):
            tensors.append(part)
            parts.append(_MARK)
        else:
            parts.append(part)
    return _made_of(type(arguments), parts)


def _filled(marked: Any, tensors: Iterator[Tensor]) -> Any:
    parts: list[Any] = []
    for part in marked:
        if isinstance(part, tuple):
            parts.append(_filled(part, tensors))
        else:
            parts.append(next(tensors) if part is _MARK else part)
    return _made_of(type(marked), parts)


def _made_of(kind: Any, parts: list[Any]) -> Any:
    return tuple(parts) if kind is tuple else kind(*parts)

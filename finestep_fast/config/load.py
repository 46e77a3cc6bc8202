"""The only place where YAML is read: files and `key=value` words in, frozen dataclasses out.

Strict: an unknown key, a wrong type and a repeated key are errors that name the key, the value and
the rule. Knows no settings of its own, reads no environment variable.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from finestep_fast.config.check import check_choice, placed, unknown_name
from finestep_fast.config.rules import choices, plain_type
from finestep_fast.errors import InputError, shown

T = TypeVar("T")

_SCALARS = {  # YAML 1.2: `1e-3` is a float; `no`, `on`, `1:30` and `2024-01-31` are strings
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}

_MOST_LEVELS, _MOST_VALUES, _MOST_DIGITS = 50, 100_000, 300


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return what a YAML file holds; an empty file is an empty mapping.

    Raises:
        InputError: No such file, no YAML, a repeated key, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    content = _parse_yaml(text, where=str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {_kind(content)}; it must hold `key: value` lines")
    return content


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a mapping in which each `a.b=value` is set; values are read as YAML.

    Args:
        mapping: Nested settings.
        overrides: Words such as `train.steps=40`; the last one wins.

    Raises:
        InputError: A word has no `=`, an empty key, no YAML value, or leads through a plain value.
    """
    changed = copy.deepcopy(dict(mapping))
    for word in overrides:
        key, equals, text = word.partition("=")
        *path, name = key.split(".")
        if not equals or not all([*path, name]):
            raise InputError(f"{shown(word)}: it must read key=value, such as train.steps=40")
        section = changed
        for depth, part in enumerate(path, start=1):
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                here = ".".join(path[:depth])
                raise InputError(f"{shown(word)}: {here} is {shown(section)}; it must be a section")
        section[name] = _parse_yaml(text, where=key)
    return changed


def build(cls: type[T], mapping: Mapping[str, Any], *, where: str = "") -> T:
    """Return an instance of a dataclass from a nested mapping, checked against its field types.

    A class with a classmethod `from_mapping(mapping, *, where)` builds itself; it may call
    `field_values`.

    Args:
        cls: A dataclass; its fields may be dataclasses, Literal, Optional, tuple, Path.
        mapping: Field name -> value; what is left out takes its default.
        where: Path of the section inside the file, for messages.

    Raises:
        InputError: An unknown or missing key, or a value that its field does not allow.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(
            placed(where, f"is {shown(mapping)}; it must be a section of `key: value` lines")
        )
    from_mapping = getattr(cls, "from_mapping", None)
    if from_mapping is not None:
        with _section(where):
            return typing.cast(T, from_mapping(mapping, where=where))
    values = field_values(cls, mapping, where=where)
    for field in _fields(cls):
        missing = dataclasses.MISSING
        required = field.default is missing and field.default_factory is missing
        if required and field.name not in values:
            raise InputError(placed(where, f"missing key {field.name!r}"))
    with _section(where):
        return cls(**values)


def field_values(
    cls: type, mapping: Mapping[str, Any], *, where: str = "", extra: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the checked values that a mapping gives to a dataclass's fields, without defaults.

    Args:
        cls: A dataclass.
        mapping: Field name -> value.
        where: Path of the section inside the file, for messages.
        extra: Further keys that are allowed and left out of the result.

    Raises:
        InputError: An unknown key, or a value that its field does not allow.
    """
    hints = typing.get_type_hints(cls, include_extras=True)  # ranges are the constructor's to check
    known = [field.name for field in _fields(cls)]
    values = {}
    for key, value in mapping.items():
        if key in known:
            path = f"{where}.{key}" if where else key
            values[key] = _field_value(plain_type(hints[key]), value, path)
        elif key not in extra:
            raise InputError(unknown_name(where, "key", key, [*known, *extra]))
    return values


def as_mapping(config: Any) -> dict[str, Any]:
    """Return a dataclass instance as plain YAML data, from which `build` makes its equal."""
    return {field.name: _plain(getattr(config, field.name)) for field in _fields(type(config))}


def write_yaml(path: str | Path, mapping: Mapping[str, Any]) -> None:
    """Write plain data as a YAML file that `read_yaml` reads back."""
    import yaml

    text = yaml.dump(dict(mapping), Dumper=_yaml_dialect()[1], sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def _parse_yaml(text: str, *, where: str) -> Any:
    import yaml

    with _section(where):
        try:
            content = yaml.load(text, _yaml_dialect()[0])
        except yaml.YAMLError as error:
            raise InputError(f"is not YAML: {error}") from error
        _check_content(content, "", {})
        return content


def _check_content(value: Any, path: str, size_of: dict[int, int]) -> int:
    """Refuse what no setting can be; return how many values there are, aliases followed.

    How deep it is was checked before.
    """
    wrong = re.search("[\\0\ud800-\udfff]", value) if isinstance(value, str) else None
    if wrong is not None:
        raise InputError(placed(path, f"holds the character {wrong[0]!r}; it must be text"))
    if not isinstance(value, dict | list):
        return 1
    known = size_of.get(id(value))
    if known == 0:
        raise InputError(placed(path, "holds itself through an alias; it must be finite"))
    if known is not None:
        return known
    size_of[id(value)] = 0
    size = 1
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        inside = f"{path}.{key}" if path else str(key)
        size += _check_content(key, path, size_of) + _check_content(part, inside, size_of)
        if size > _MOST_VALUES:
            raise InputError(placed(path, f"holds more than {_MOST_VALUES} values; drop some"))
    size_of[id(value)] = size
    return size


def _broken_rule(kind: str, text: str) -> str:
    """Return what a scalar of a kind must be, if it is not that."""
    if kind not in _SCALARS:
        return ""
    if not re.fullmatch(_SCALARS[kind][0], text):
        return {"bool": "true or false", "int": "an integer"}.get(kind, f"a {kind}")
    digits = text.lstrip("+-")
    if kind == "int" and digits.startswith("0") and digits != "0":
        return "a number without a leading 0, or text in quotes"
    if kind == "int" and len(digits) > _MOST_DIGITS:
        return f"a number of at most {_MOST_DIGITS} digits"
    return ""


@functools.cache
def _yaml_dialect() -> tuple[Any, Any]:
    """Return a loader and a dumper that agree on which words are not strings."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice, and what would not be read as it is written."""

        yaml_constructors: ClassVar[dict[Any, Any]] = {
            tag: construct
            for tag, construct in yaml.SafeLoader.yaml_constructors.items()
            if tag is None or str(tag).rpartition(":")[2] in (*_SCALARS, "str", "seq", "map")
        }

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            """Construct a mapping of distinct keys."""
            seen: set[Hashable] = set()
            for key_node, _ in node.value:
                key = key_node.value
                if key_node.tag == "tag:yaml.org,2002:str" and key in seen:
                    line = key_node.start_mark.line + 1
                    raise InputError(f"line {line}: key {key!r} stands there twice")
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

        def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
            """Construct text, or what stands for a value; a tag does not make it one."""
            text: str = super().construct_scalar(node)
            kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
            rule = _broken_rule(kind, text)
            if rule:
                line = f"line {node.start_mark.line + 1}: " if self.line else ""
                written = text if len(text) < 40 else shown(text)
                raise InputError(f"{line}is {written}; it must be {rule}")
            return text

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            """Compose what is not nested too deeply."""
            self.level = getattr(self, "level", -1) + 1
            if self.level > _MOST_LEVELS:
                raise InputError(
                    f"is nested too deeply; it must have at most {_MOST_LEVELS} levels"
                )
            node = super().compose_node(parent, index)
            self.level -= 1
            return node

    class Dumper(yaml.SafeDumper):
        """Quotes what the loader would not read back as a string."""

    for dialect in (Loader, Dumper):
        dialect.yaml_implicit_resolvers = {}
        for name, (pattern, first) in _SCALARS.items():
            dialect.add_implicit_resolver(
                f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$"), list(first)
            )
    return Loader, Dumper


def _field_value(hint: Any, value: Any, path: str) -> Any:
    for option in _options(hint):
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            if isinstance(value, option) or (value is None and types.NoneType in _options(hint)):
                return value
            return build(option, value, where=path)
    return _checked(hint, value, path)


def _checked(hint: Any, value: Any, path: str) -> Any:
    import pydantic
    import pydantic_core

    if choices(hint):
        if value is not None or types.NoneType not in _options(hint):
            check_choice(path, value, choices(hint))
        return value
    try:
        # JSON's strict rules: a list may be a tuple, text a Path, an int a float; "3" is no int.
        document = pydantic_core.to_json(value, inf_nan_mode="constants")
        return _type_adapter(hint).validate_json(document, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        for part in first["loc"]:  # of a union, it also names the member
            inside = isinstance(value, Mapping) and part in value
            if not inside and not isinstance(value, list | tuple):
                break
            value, path = value[part], f"{path}.{part}"
        rule = first["msg"].removeprefix("Input should ").removeprefix("be ")
        rule = rule.replace("a valid integer", "an integer").replace("a valid array", "a list")
        rule = rule.replace("a valid ", "a ")
        raise InputError(f"{path} is {shown(first['input'])}; it must be {rule}") from None


@functools.cache
def _type_adapter(hint: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(hint)


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; of any other type, the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


@contextmanager
def _section(where: str) -> Iterator[None]:
    """Put the section's path before an error that does not carry one yet."""
    try:
        yield
    except InputError as error:
        text = str(error)
        if not where or text.startswith((f"{where}.", f"{where}:", f"{where} ")):
            raise
        raise InputError(placed(where, text)) from None


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"the value {shown(value)}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_mapping(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

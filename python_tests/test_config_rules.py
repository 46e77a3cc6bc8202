"""Rules written into the types of fields: what each refuses, and that no bound is forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pytest
import torch

from finestep_fast import InputError, LossConfig
from finestep_fast.config.rules import Bound, Share, above, at_least, at_most, check_fields
from finestep_fast.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: Annotated[int, at_least(1), at_most(9)] = 3
    any_number: float = 0.0
    any_integer: int = 0
    rate: Annotated[float, above(0)] | None = None
    share: Share = 0.5
    kind: Literal["mean", "sum"] | None = None
    shuffle: bool = False
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be an integer >= 1"),
        ({"steps": 10}, "steps is 10; it must be an integer >= 1 and <= 9"),
        ({"steps": 2.0}, "steps is 2; it must be an integer >= 1"),
        ({"steps": None}, "steps is None; it must be an integer >= 1"),
        ({"any_number": float("nan")}, "any_number is nan; it must be finite"),
        (
            {"any_integer": True},
            "any_integer is True; it must be an integer >= -9223372036854775807",
        ),
        ({"rate": 0}, "rate is 0; it must be > 0"),
        ({"rate": "1"}, "rate is '1'; it must be a number > 0"),
        ({"share": 1.1}, "share is 1.1; it must be >= 0 and <= 1"),
        ({"kind": "meen"}, "kind is 'meen'; it must be 'mean' or 'sum'; did you mean 'mean'?"),
        ({"shuffle": 1}, "shuffle is 1; it must be true or false"),
    ],
)
def test_a_value_that_breaks_the_rule_of_its_type_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        Settings(**changes)
    assert str(caught.value) == message


def test_bounds_themselves_are_inside_and_none_is_allowed_where_the_type_says_so() -> None:
    for changes in (
        {"steps": 1, "share": 0},
        {"steps": 9, "share": 1.0},
        {"rate": None, "kind": None, "folder": None},
        {"rate": 1e-300, "kind": "sum"},
    ):
        assert dataclasses.asdict(Settings(**changes)).items() >= changes.items()


def test_settings_can_be_made_in_code_that_is_traced() -> None:
    def clipped(values: torch.Tensor, clip_low: float) -> torch.Tensor:
        return values.clamp(min=-LossConfig(clip_low=clip_low).clip_low)

    compiled = torch.compile(clipped, fullgraph=True, backend="eager")
    assert compiled(torch.tensor([-1.0]), 0.5).item() == -0.5


def integers(cls: type) -> Iterator[tuple[str, Any]]:
    """Return every integer field of the settings with its type, sections too."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        members = (hint, *get_args(hint))
        if int in members or any(int in get_args(member) for member in members):
            yield f"{cls.__name__}.{name}", hint
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from integers(hint)


def test_every_integer_of_a_run_has_a_bound() -> None:
    found = dict(integers(TrainConfig))
    assert len(found) > 30
    for name, hint in found.items():
        marks = [mark for part in (hint, *get_args(hint)) for mark in get_args(part)]
        assert any(isinstance(mark, Bound) for mark in marks), f"{name}: {hint}"

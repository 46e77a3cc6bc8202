"""Settings and statuses enter and leave the compiled module by name, never by position."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, make_dataclass
from enum import Enum
from typing import Any, get_args

import pytest

from finestep_fast import CreditConfig, LossConfig, _core
from finestep_fast.config import credit, loss
from finestep_fast.config.semantics import Semantics
from finestep_fast.ops import cpp
from finestep_fast.sql.comparison import IS_EQUAL
from finestep_fast.sql.outcome import QUERY_STATUS

pytestmark = pytest.mark.native

CREDIT = CreditConfig(
    process_baseline=0.11,
    process_weight=0.12,
    outcome_weight=13.0,
    process_discount=0.14,
    outcome_discount=0.15,
    smoothing=0.16,
    scope="trajectory",
    state_shrinkage=22.0,
    gae_lambda=0.23,
    channels="joint",
    std="none",
    std_floor=0.17,
    epsilon=0.18,
    leave_one_out=True,
    step_weight=0.19,
    rollout_weight=0.2,
    advantage_clip=21.0,
)
LOSS = LossConfig(
    kind="ppo",
    ratio="rollout",
    clip_low=0.11,
    clip_high=0.12,
    dual_clip=13.0,
    aggregation="constant",
    constant_tokens=14,
    kl="k2",
    kl_weight=0.15,
)
CREDIT_CHOICES = {"scope": _core.Scope, "channels": _core.Channels, "std": _core.Std}
LOSS_CHOICES = {
    "kind": _core.LossKind,
    "ratio": _core.RatioLevel,
    "aggregation": _core.Aggregation,
    "kl": _core.KlEstimator,
}


def shown(settings: Any) -> dict[str, Any]:
    """Return what a settings object of the compiled module holds, choices by name."""
    names = [name for name, kind in vars(type(settings)).items() if isinstance(kind, property)]
    values = {name: getattr(settings, name) for name in names}
    return {n: v.name if isinstance(v, Enum) else v for n, v in values.items()}


def held(config: CreditConfig | LossConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


@pytest.mark.parametrize(
    ("config", "settings", "not_computed"),
    [
        (CREDIT, cpp._credit_settings(CREDIT), {"allow_reward_imbalance"}),
        (CreditConfig(advantage_clip=None), None, {"allow_reward_imbalance"}),
        (LOSS, cpp._loss_settings(LOSS), set()),
        (LossConfig(), None, set()),
    ],
    ids=["credit", "credit, None", "loss", "loss, None"],
)
def test_every_field_of_a_config_reaches_the_field_of_its_name(
    config: CreditConfig | LossConfig, settings: Any, not_computed: set[str]
) -> None:
    if settings is None:
        made: dict[type, Any] = {CreditConfig: cpp._credit_settings, LossConfig: cpp._loss_settings}
        settings = made[type(config)](config)
    given = held(config)
    assert shown(settings) == {n: v for n, v in given.items() if n not in not_computed}
    assert len(set(given.values())) > 4  # a value that goes elsewhere is seen


@pytest.mark.parametrize(
    ("make", "names", "choices"),
    [
        (_core.CreditSettings, held(CREDIT).keys() - {"allow_reward_imbalance"}, CREDIT_CHOICES),
        (_core.LossSettings, held(LOSS).keys(), LOSS_CHOICES),
    ],
    ids=["credit", "loss"],
)
def test_settings_take_exactly_their_names(
    make: Any, names: set[str], choices: dict[str, type[Enum]]
) -> None:
    given = {name: next(iter(choices[name])) if name in choices else 0.5 for name in sorted(names)}
    if "leave_one_out" in given:
        given["leave_one_out"] = True
    made = shown(make(**given))
    assert made == shown(make(**dict(reversed(given.items()))))
    for name in names:
        with pytest.raises(TypeError):
            make(**{n: v for n, v in given.items() if n != name})
    with pytest.raises(TypeError):
        make(**given, added=0.5)
    with pytest.raises(TypeError):
        make(*given.values())


@pytest.mark.parametrize(("config", "make"), [(CREDIT, "credit"), (LOSS, "loss")])
def test_a_field_added_before_the_others_is_an_error_and_shifts_nothing(
    config: CreditConfig | LossConfig, make: str
) -> None:
    kept = [(field.name, object, getattr(config, field.name)) for field in fields(config)]
    wider = make_dataclass("Wider", [("added", float, 0.5), *kept], frozen=True)()
    with pytest.raises(TypeError, match="added"):
        getattr(cpp, f"_{make}_settings")(wider)


def test_a_choice_that_the_core_does_not_know_is_an_error() -> None:
    @dataclass(frozen=True)
    class Wider(LossConfig):
        def __post_init__(self) -> None:
            """Accept anything."""

    with pytest.raises(KeyError, match="gspo"):
        cpp._loss_settings(Wider(kind="gspo"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "members"),
    [
        (credit.Scope, _core.Scope),
        (credit.Channels, _core.Channels),
        (credit.Std, _core.Std),
        (loss.Kind, _core.LossKind),
        (loss.Ratio, _core.RatioLevel),
        (loss.Aggregation, _core.Aggregation),
        (loss.KL, _core.KlEstimator),
        (Semantics, _core.Semantics),
    ],
    ids=lambda given: given.__name__ if isinstance(given, type) else "",
)
def test_choices_have_the_same_names_on_both_sides(choice: Any, members: type[Enum]) -> None:
    assert set(get_args(choice)) == set(members.__members__)


def test_statuses_and_verdicts_are_mapped_by_name() -> None:
    assert set(QUERY_STATUS) == set(_core.QueryStatus)
    assert {ended.name: str(status) for ended, status in QUERY_STATUS.items()} == {
        name: name for name in _core.QueryStatus.__members__
    }
    assert set(IS_EQUAL) == set(_core.Verdict)


def test_a_comparison_takes_its_settings_by_name() -> None:
    settings = _core.ComparisonSettings(
        search_budget=7, float_tolerance=0.5, ordered=True, semantics=_core.Semantics.strict
    )
    assert shown(settings) == {
        "semantics": "strict",
        "ordered": True,
        "float_tolerance": 0.5,
        "search_budget": 7,
    }
    with pytest.raises(TypeError, match=re.escape("incompatible constructor arguments")):
        _core.ComparisonSettings(_core.Semantics.strict, True, 0.5, 7)  # type: ignore[call-arg]

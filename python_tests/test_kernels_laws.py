"""The kernels run the tests of the entry points: the same test objects, with impl="triton".

`support.impls` leaves Triton out of those tests: interpreted, an example takes a thousand times as
long. Here every parity row is run and every law, with fewer examples where there is no GPU.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, get_args

import pytest
import test_parity
import test_step_advantage
import test_stopping_toy
from hypothesis import settings

from finestep_fast.config.credit import PRESETS
from finestep_fast.config.loss import Ratio
from support.batches import SHAPES
from support.entry_points import device_of
from support.profile import THOROUGH

INTERPRETED = device_of("triton").type == "cpu"
FEWER_EXAMPLES = settings(max_examples=4 if THOROUGH else 2) if INTERPRETED else settings()


def imported_with(examples: settings, name: str) -> ModuleType:
    """Import a test module once more: a test takes its number of examples when it is made."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = settings.get_current_profile_name()
    settings.register_profile("these examples", examples)
    settings.load_profile("these examples")
    try:
        spec.loader.exec_module(module)
    finally:
        settings.load_profile(before)
    return module


ABOUT_THE_REFERENCE_ALONE = {
    "test_choices_of_the_config_are_those_of_the_reference",
    "test_inserting_a_flawless_step_never_raises_the_first_return",
    "test_pushing_flaws_back_by_a_flawless_step_gains_at_most_their_discount",
    "test_returns_equal_a_second_computation_in_loops",
    "test_scopes_and_channels_of_the_config_are_those_of_the_reference",
}
# The interpreter cuts float32 off to bfloat16, where a GPU rounds.
ROUNDS_TO_BFLOAT16 = "test_bfloat16_logps_give_a_float32_loss_and_a_bfloat16_gradient"


def laws(module: ModuleType) -> Iterator[Callable[..., None]]:
    for name, law in vars(module).items():
        if name.startswith("test_") and list(inspect.signature(law).parameters) == ["impl"]:
            yield law


LAWS = [
    law
    for name in (
        "test_credit_laws",
        "test_policy_loss",
        "test_policy_loss_by_hand",
        "test_policy_loss_laws",
        "test_state_and_value_laws",
        "test_step_advantage",
    )
    for law in laws(imported_with(FEWER_EXAMPLES, name))
    if law.__name__ not in ABOUT_THE_REFERENCE_ALONE
    and not (INTERPRETED and law.__name__ == ROUNDS_TO_BFLOAT16)
]


@pytest.mark.parametrize("row", test_parity.LOSS_ROWS, ids=test_parity.named)
def test_loss_gradient_and_metrics_are_as_exact_as_the_references(row: Mapping[str, Any]) -> None:
    test_parity.check_loss_row("triton", row)


@pytest.mark.parametrize("row", test_parity.CREDIT_ROWS, ids=test_parity.named)
def test_advantages_are_as_exact_as_the_references(row: Mapping[str, Any]) -> None:
    test_parity.check_credit_row("triton", row)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_loss_straight_from_rewards_is_as_exact_as_the_references(preset: str) -> None:
    check = test_parity.test_the_loss_straight_from_rewards_is_as_exact_as_the_references
    # Interpreted, the comparison of states takes most of the time, and no ratio changes it.
    is_slow = INTERPRETED and preset == "finestep_state"
    for ratio in ("step",) if is_slow else get_args(Ratio):
        check("triton", preset, ratio)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("test_"))
def test_triton_keeps(law: Callable[..., None]) -> None:
    law(impl="triton")


def test_the_worked_example_to_six_decimals() -> None:
    for name in test_step_advantage.GOLDEN:
        test_step_advantage.test_the_worked_example_to_six_decimals(name, "triton")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_on_every_shape_are_as_exact_as_the_references(preset: str) -> None:
    check = test_step_advantage.test_float32_is_as_exact_as_the_float32_reference
    for shape in SHAPES:
        check(preset, shape, "triton")


@pytest.mark.skipif(INTERPRETED, reason="320 000 programs, interpreted one after the other")
def test_the_stopping_toy() -> None:
    toy = inspect.unwrap(test_stopping_toy.toy)()
    test_stopping_toy.test_leave_one_out_per_index_estimates_the_gradient_within_a_tenth(
        toy, "triton"
    )
    for shrinkage in (0.0, 2.0):
        test_stopping_toy.test_states_estimate_the_gradient_within_a_tenth(toy, shrinkage, "triton")
    test_stopping_toy.test_outcomes_minus_a_value_estimate_the_gradient_within_a_tenth(
        toy, 0.5, "triton"
    )
    for scope in test_stopping_toy.SCOPES_OF_GROUPS:
        test_stopping_toy.test_every_scope_of_a_group_has_the_sign_of_the_gradient(
            toy, scope, "triton"
        )

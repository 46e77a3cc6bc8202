"""Credit: the worked example to six decimals, and the method written twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import CreditConfig, InputError
from finestep_fast.config.credit import PRESETS, Channels, Scope
from finestep_fast.reference import step_return
from finestep_fast.reference.credit import CHANNELS, COMPARISONS
from support.batches import (
    SHAPES,
    Rollout,
    packed,
    rollout_lists,
    rollout_outcome,
    some_states,
    some_values,
    step_reward,
)
from support.entry_points import device_of, step_advantage
from support.impls import IMPLS
from support.loops import loop_returns, loop_step_advantage
from support.settings import VALUE_ALONE
from support.tolerance import assert_as_exact

pytestmark = pytest.mark.parametrize("impl", IMPLS)

NAN = float("nan")
EXAMPLE = [
    Rollout(0, (1, 1), (1, 1), 1),
    Rollout(0, (1, 1, 1), (1, 0, 1), 1),
    Rollout(0, (1, 1, 1), (0, 1, 1), 0),
    Rollout(0, (1,), (1,), 0),
]
STATE = torch.tensor([0, 1, 0, 1, 3, 0, 2, 2, 0])
VALUE = torch.tensor([0.5, 0.6, 0.5, 0.4, 0.7, 0.5, 0.3, 0.2, 0.5], dtype=torch.float64)
HALVES = {"step_weight": 0.5, "rollout_weight": 0.5}
OLD_FORM: dict[str, Any] = {
    "process_baseline": 0.0,
    "outcome_discount": 0.9,
    "std_floor": 0.0,
}

# Rollout after rollout, as the method's worked example gives them.
GOLDEN = {
    "finestep": (
        CreditConfig.preset("finestep"),
        "0.967096 0.977799 0.753709 0.746042 0.837746 -0.949986 -0.889352 -0.873733 -0.770819",
    ),
    "finestep, halved with the trajectory": (
        CreditConfig.preset("finestep", **HALVES),
        "0.957498 0.962849 0.764631 0.760798 0.80665 -0.948942 -0.918625 -0.910816 -0.773186",
    ),
    "finestep_index": (
        CreditConfig.preset("finestep_index"),
        "0.967096 0.687456 0.753709 0.459733 0.707106 -0.949986 -1.147189 -0.707106 -0.770819",
    ),
    "finestep_decoupled": (
        CreditConfig.preset("finestep_decoupled"),
        "1.151284 1.10043 0.607635 0.411502 0.667981 -1.152186 -0.854345 -0.860772 -0.606733",
    ),
    "trajectory": (
        CreditConfig.preset("finestep", scope="trajectory"),
        "0.947899 0.947899 0.775553 0.775553 0.775553 -0.947899 -0.947899 -0.947899 -0.775553",
    ),
    "b = 0, per index": (
        CreditConfig(**OLD_FORM, scope="per_index"),
        "0.956437 0.680952 0.767817 0.467128 0.707106 -0.79449 -1.14808 -0.707106 -0.929763",
    ),
    "b = 0, per index, mean only": (
        CreditConfig(**OLD_FORM, scope="per_index", std="none"),
        "0.502 0.3398 0.403 0.2331 0.4709 -0.417 -0.5729 -0.4709 -0.488",
    ),
    "b = 0, pooled": (
        CreditConfig(**OLD_FORM),
        "0.956437 0.963062 0.767817 0.759216 0.838961 -0.79449 -0.780613 -0.843087 -0.929763",
    ),
    "matchtir": (
        CreditConfig.preset("matchtir"),
        "0.910252 0.774299 0.815942 0.663566 0.785586 -0.788133 -0.964686 -0.74444 -0.938061",
    ),
    "grpo_process": (
        CreditConfig.preset("grpo_process"),
        "0.864067 0.864067 0.864067 0.864067 0.864067 -0.781775 -0.781775 -0.781775 -0.946359",
    ),
    "grpo": (
        CreditConfig.preset("grpo"),
        "0.866024 0.866024 0.866024 0.866024 0.866024 -0.866024 -0.866024 -0.866024 -0.866024",
    ),
}


def numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()], dtype=torch.float64)


def advantages(rollouts: list[Rollout], credit: CreditConfig, impl: str) -> Tensor:
    rewards = step_reward(rollouts), rollout_outcome(rollouts)
    return step_advantage(packed(rollouts), *rewards, credit=credit, impl=impl)


def with_states(rollouts: list[Rollout], credit: CreditConfig, impl: str) -> Tensor:
    """Return the advantages of the worked example, with its states or values."""
    batch, reward, outcome = packed(rollouts), step_reward(rollouts), rollout_outcome(rollouts)
    given = {"state": {"step_state": STATE}, "value": {"step_value": VALUE}}[credit.scope]
    return step_advantage(batch, reward, outcome, **given, credit=credit, impl=impl)


def assert_six_decimals(value: Tensor, expected: str) -> None:
    torch.testing.assert_close(value, numbers(expected), rtol=0, atol=5.1e-7)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_worked_example_to_six_decimals(name: str, impl: str) -> None:
    credit, expected = GOLDEN[name]
    assert_six_decimals(advantages(EXAMPLE, credit, impl), expected)


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (
            CreditConfig.preset("finestep_state"),
            "1.177979 0.979367 0.936464 0.695375 1.039928 -1.165523 -1.083711 -1.126101 -0.94892",
        ),
        (
            CreditConfig.preset("finestep_state", step_weight=1.0, rollout_weight=0.0),
            "1.40806 1.010835 1.097375 0.615196 1.304303 -1.383148 -1.219523 -1.304303 -1.122287",
        ),
        (  # against nobody but those who were in the state: 0.97 - (0.8509 - 0.1 + 0) / 3 ...
            CreditConfig.preset(
                "finestep_state",
                step_weight=1.0,
                rollout_weight=0.0,
                std="none",
                state_shrinkage=0.0,
            ),
            "0.7197 0.13 0.5609 -0.13 0 -0.706967 0 0 -0.573633",
        ),
        (
            CreditConfig.preset("finestep_value"),
            "0.441 0.565 0.2288825 0.4595 0.435 -0.572455 -0.368 -0.365 -0.635",
        ),
        (
            VALUE_ALONE,
            "0.519614 0.692819 0.216506 0.579422 0.519614 -0.719614 -0.34641 -0.34641 -0.866024",
        ),
    ],
    ids=[
        "finestep_state",
        "state alone",
        "no shrinkage, mean only",
        "finestep_value",
        "value alone",
    ],
)
def test_the_worked_example_with_states_or_values_to_six_decimals(
    credit: CreditConfig, expected: str, impl: str
) -> None:
    assert_six_decimals(with_states(EXAMPLE, credit, impl), expected)


def test_the_worked_example_with_states_and_no_right_rollout(impl: str) -> None:
    all_wrong = [replace(rollout, outcome=0) for rollout in EXAMPLE]
    credit = CreditConfig.preset("finestep_state", step_weight=1.0, rollout_weight=0.0)
    assert_six_decimals(
        with_states(all_wrong, credit, impl),
        "0.21111 0.185185 -0.188888 -0.333332 0 -0.233333 0.111111 0 0.21111",
    )


def test_the_worked_example_with_no_right_rollout_shows_the_floor(impl: str) -> None:
    all_wrong = [replace(rollout, outcome=0) for rollout in EXAMPLE]
    assert_six_decimals(
        advantages(all_wrong, CreditConfig.preset("finestep"), impl),
        "0.158333 0.105833 -0.141666 -0.217499 -0.06525 -0.174999 0.005833 0.00175 0.158333",
    )


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (CreditConfig(smoothing=1), "0.97 1 0.8509 0.87 1 -0.1 0 0 0"),
        (CreditConfig(), "0.97 0.991 0.8509 0.86427 0.959281 -0.1 -0.03 -0.009 0"),
        (CreditConfig(**OLD_FORM), "1.09 1.097 0.991 0.9903 1.06709 0.171 0.1843 0.12529 0.1"),
    ],
    ids=["discounted", "smoothed", "b = 0"],
)
def test_the_worked_examples_returns(credit: CreditConfig, expected: str, impl: str) -> None:
    batch = packed(EXAMPLE)
    value = step_return(batch, step_reward(EXAMPLE), rollout_outcome(EXAMPLE), credit=credit)
    assert_six_decimals(value, expected)


def test_a_step_ignores_other_groups_and_the_callers_order(impl: str) -> None:
    other = [Rollout(7, (1, 1), (0, 0.5), 1), Rollout(7, (1,), (0.25,), 0)]
    credit = CreditConfig.preset("finestep", **HALVES)
    mixed = [EXAMPLE[0], other[0], EXAMPLE[1], EXAMPLE[2], other[1], EXAMPLE[3]]
    value = advantages(mixed, credit, impl)
    of_example = torch.tensor([0, 1, 4, 5, 6, 7, 8, 9, 11])
    torch.testing.assert_close(value[of_example], advantages(EXAMPLE, credit, impl))


def test_advantages_are_cut_to_the_clip(impl: str) -> None:
    credit = CreditConfig.preset("finestep", advantage_clip=0.7)
    value = advantages(EXAMPLE, credit, impl)
    unclipped = advantages(EXAMPLE, replace(credit, advantage_clip=None), impl)
    assert value.abs().max() == 0.7
    torch.testing.assert_close(value, unclipped.clamp(-0.7, 0.7), rtol=0, atol=0)


def credit_configs() -> st.SearchStrategy[CreditConfig]:
    share = st.sampled_from([0.0, 0.3, 0.9, 1.0])
    return st.builds(
        CreditConfig,
        process_baseline=share,
        process_weight=st.sampled_from([0.0, 0.1, 2.0]),
        outcome_weight=st.sampled_from([0.5, 1.0]),
        process_discount=share,
        outcome_discount=share,
        smoothing=st.sampled_from([0.2, 0.7, 1.0]),
        scope=st.sampled_from(get_args(Scope)),
        state_shrinkage=st.sampled_from([0.0, 2.0]),
        gae_lambda=st.sampled_from([0.0, 0.5, 1.0]),
        channels=st.sampled_from(get_args(Channels)),
        std=st.sampled_from(["sample", "population", "none"]),
        std_floor=st.sampled_from([0.0, 0.3]),
        epsilon=st.sampled_from([1e-6, 1e-2]),
        leave_one_out=st.booleans(),
        step_weight=st.sampled_from([0.0, 1.0, 0.5]),
        rollout_weight=st.sampled_from([0.0, 0.5]),
        advantage_clip=st.sampled_from([None, 1.0, 5.0]),
    )


@given(rollouts=rollout_lists(), credit=credit_configs())
def test_advantages_equal_a_second_computation_in_loops(
    rollouts: list[Rollout], credit: CreditConfig, impl: str
) -> None:
    batch = packed(rollouts)
    state, value = some_states(batch).tolist(), some_values(batch).tolist()
    looped = loop_step_advantage(rollouts, credit, state, value)
    expected = torch.tensor(looped, dtype=torch.float64)
    torch.testing.assert_close(advantages(rollouts, credit, impl), expected, rtol=1e-9, atol=1e-8)


@given(rollouts=rollout_lists(), credit=credit_configs())
def test_returns_equal_a_second_computation_in_loops(
    rollouts: list[Rollout], credit: CreditConfig, impl: str
) -> None:
    value = step_return(
        packed(rollouts), step_reward(rollouts), rollout_outcome(rollouts), credit=credit
    )
    w_p, w_o = credit.process_weight, credit.outcome_weight
    expected = [q for rollout in rollouts for q in loop_returns(rollout, w_p, w_o, credit)]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_float32_is_as_exact_as_the_float32_reference(preset: str, shape: str, impl: str) -> None:
    rollouts, credit = SHAPES[shape], CreditConfig.preset(preset)
    batch = packed(rollouts)

    def computed(dtype: torch.dtype, by: str) -> Tensor:
        reward, outcome = step_reward(rollouts, dtype), rollout_outcome(rollouts, dtype)
        return step_advantage(batch, reward, outcome, credit=credit, impl=by)

    truth = computed(torch.float64, "reference")
    assert_as_exact(computed(torch.float32, impl), computed(torch.float32, "reference"), truth)
    torch.testing.assert_close(computed(torch.float32, impl).double(), truth, rtol=0, atol=1e-4)


def test_weight_on_the_rollout_alone_is_the_trajectory_scope_in_every_channel(impl: str) -> None:
    for preset in PRESETS:
        credit = CreditConfig.preset(preset, step_weight=0.0, rollout_weight=1.0)
        scope = replace(credit, step_weight=1.0, rollout_weight=0.0, scope="trajectory")
        torch.testing.assert_close(
            advantages(EXAMPLE, credit, impl), advantages(EXAMPLE, scope, impl), rtol=0, atol=0
        )


def test_a_rollout_without_steps_is_compared_with_no_other(impl: str) -> None:
    failed = Rollout(0, (), (), 1)
    for preset in PRESETS:
        credit = CreditConfig.preset(preset)
        torch.testing.assert_close(
            advantages([EXAMPLE[0], failed, *EXAMPLE[1:]], credit, impl),
            advantages(EXAMPLE, credit, impl),
            rtol=0,
            atol=0,
        )


def test_rewards_may_be_integers_bools_or_bfloat16(impl: str) -> None:
    batch, credit = packed(EXAMPLE), CreditConfig.preset("finestep")
    expected = advantages(EXAMPLE, credit, impl).float()
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        reward, outcome = step_reward(EXAMPLE, dtype), rollout_outcome(EXAMPLE, dtype)
        value = step_advantage(batch, reward, outcome, credit=credit, impl=impl)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)


def test_scopes_and_channels_of_the_config_are_those_of_the_reference(impl: str) -> None:
    assert {*COMPARISONS, "value"} == set(get_args(Scope))
    assert set(CHANNELS) == set(get_args(Channels))


@pytest.mark.parametrize(
    ("reward", "outcome", "message"),
    [
        (torch.zeros(8), torch.zeros(4), r"step_reward has shape \(8,\); expected \(9,\), S of"),
        (torch.zeros(9, 1), torch.zeros(4), r"step_reward has shape \(9, 1\); expected \(9,\)"),
        (torch.zeros(9), torch.zeros(9), r"rollout_outcome has shape \(9,\); expected \(4,\), R"),
        (torch.zeros(9, dtype=torch.cfloat), torch.zeros(4), "step_reward is torch.complex64"),
        (torch.zeros(9, device="meta"), torch.zeros(4), "step_reward is on meta; expected cpu"),
    ],
)
def test_the_entry_point_names_the_wrong_reward(
    reward: Tensor, outcome: Tensor, message: str, impl: str
) -> None:
    with pytest.raises(InputError, match=message):
        step_advantage(packed(EXAMPLE), reward, outcome, impl=impl)


@pytest.mark.parametrize(
    ("scope", "given", "message"),
    [
        ("state", {"step_state": None}, "step_state is not given while credit.scope is 'state'"),
        ("value", {"step_value": None}, "step_value is not given while credit.scope is 'value'"),
        ("value", {"step_value": VALUE, "step_state": STATE}, "step_state is given while credit"),
        ("pooled", {"step_state": STATE}, "step_state is given .* 'pooled'; it must be given for"),
        ("per_index", {"step_value": VALUE}, "step_value is given while credit.scope is 'per_in"),
        ("state", {"step_state": STATE[1:]}, r"step_state has shape \(8,\); expected \(9,\), S"),
        ("state", {"step_state": STATE.int()}, "step_state is torch.int32; expected int64"),
        ("state", {"step_state": STATE.double()}, "step_state is torch.float64; expected int64"),
        ("state", {"step_state": [0] * 9}, r"step_state is \[0, 0.*expected a tensor, int64"),
        ("state", {"step_state": STATE.to("meta")}, "step_state is on meta; expected cpu"),
        ("value", {"step_value": VALUE[None]}, r"step_value has shape \(1, 9\); expected \(9,\)"),
        ("value", {"step_value": VALUE / 0}, "step_value holds inf, at 0; expected finite"),
        ("value", {"step_value": VALUE * NAN}, "step_value holds nan, at 0; expected finite"),
    ],
)
def test_the_entry_point_names_the_wrong_state_or_value(
    scope: Scope, given: dict[str, Any], message: str, impl: str
) -> None:
    if ("inf" in message or "nan" in message) and device_of(impl).type != "cpu":
        return  # numbers on a GPU are not looked at
    credit = CreditConfig(scope=scope)
    rewards = step_reward(EXAMPLE), rollout_outcome(EXAMPLE)
    with pytest.raises(InputError, match=message):
        step_advantage(packed(EXAMPLE), *rewards, **given, credit=credit, impl=impl)

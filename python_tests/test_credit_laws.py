"""What must hold for credit whatever the rewards are, by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from random import Random
from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import CreditConfig
from finestep_fast.config.credit import PRESETS, Channels, Scope, Std
from finestep_fast.reference import step_return
from finestep_fast.reference.comparison import carried, group_relative
from finestep_fast.reference.returns import outcome_return, process_return, smoothed
from finestep_fast.reference.rounding import process_size, rounding
from support.batches import (
    Rollout,
    packed,
    rollout_lists,
    rollout_outcome,
    step_reward,
)
from support.entry_points import step_advantage
from support.impls import IMPLS
from support.loops import loop_grpo

pytestmark = pytest.mark.parametrize("impl", IMPLS)

NO_FLOOR: dict[str, Any] = {"std_floor": 0.0}
SCOPES_OF_STEPS: tuple[Scope, ...] = ("pooled", "per_index")
GROUP_RELATIVE = [scope for scope in get_args(Scope) if scope != "value"]
PLAIN: dict[str, Any] = {
    "process_discount": 1.0,
    "outcome_discount": 1.0,
    "smoothing": 1.0,
    **NO_FLOOR,
}


def advantages(
    rollouts: Sequence[Rollout],
    credit: CreditConfig,
    impl: str,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    reward, outcome = step_reward(rollouts, dtype), rollout_outcome(rollouts, dtype)
    return step_advantage(packed(rollouts), reward, outcome, credit=credit, impl=impl)


def assert_equals_grpo(value: Tensor, rollouts: Sequence[Rollout]) -> None:
    expected = torch.tensor(loop_grpo(rollouts), dtype=torch.float64)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@given(rollouts=rollout_lists())
def test_preset_grpo_equals_grpo(rollouts: list[Rollout], impl: str) -> None:
    rollouts = [rollout for rollout in rollouts if rollout.reward]
    assert_equals_grpo(advantages(rollouts, CreditConfig.preset("grpo"), impl), rollouts)


@given(outcomes=st.lists(st.sampled_from([0.0, 1.0]), min_size=1), steps=st.integers(1, 4))
def test_per_index_without_process_and_discount_equals_grpo_for_equal_lengths(
    outcomes: list[float], steps: int, impl: str
) -> None:
    rollouts = [Rollout(0, (1,) * steps, (0.5,) * steps, outcome) for outcome in outcomes]
    credit = CreditConfig(process_weight=0, scope="per_index", **PLAIN)
    assert_equals_grpo(advantages(rollouts, credit, impl), rollouts)


@given(rollouts=rollout_lists(max_steps=1))
def test_per_index_and_pooled_equal_grpo_for_one_step_per_rollout(
    rollouts: list[Rollout], impl: str
) -> None:
    mixed = [
        replace(rollout, outcome=rollout.outcome + 0.1 * (rollout.reward[0] - 1))
        for rollout in rollouts
    ]
    for scope in SCOPES_OF_STEPS:
        credit = CreditConfig(scope=scope, **NO_FLOOR)
        value = advantages(rollouts, credit, impl)
        expected = torch.tensor(loop_grpo(mixed), dtype=torch.float64)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


@given(rollouts=rollout_lists(), scope=st.sampled_from(SCOPES_OF_STEPS))
def test_alpha_1_equals_no_smoothing_bit_for_bit(
    rollouts: list[Rollout], scope: Scope, impl: str
) -> None:
    credit = CreditConfig(scope=scope, smoothing=1, advantage_clip=None)
    rollouts = [rollout for rollout in rollouts if rollout.reward]
    assume(rollouts)
    batch, outcome = packed(rollouts), rollout_outcome(rollouts, torch.float32)
    process = step_reward(rollouts, torch.float32) - credit.process_baseline
    mixed = process_return(
        batch, credit.process_weight * process, discount=credit.process_discount
    ) + outcome_return(batch, outcome, discount=credit.outcome_discount)
    assert smoothed(batch, mixed, smoothing=1.0).equal(mixed)
    size = credit.process_weight * process_size(
        batch, step_reward(rollouts, torch.float32), credit=credit
    )
    within = rounding(batch, size, outcome)
    place = batch.rollout_of_step, batch.position_of_step
    if scope == "pooled":
        mixed, set_of_value = carried(batch, mixed), torch.arange(batch.max_rollout_steps)
        set_of_value = set_of_value + 8 * batch.group_of_rollout[:, None]
        within = within[:, None].expand_as(mixed)
    else:
        set_of_value = batch.position_of_step + 8 * batch.group_of_rollout[place[0]]
        within = within[place[0]]
    unsmoothed = group_relative(
        mixed.flatten(),
        set_of_value.flatten(),
        rounding=within.flatten(),
        num_sets=8 * batch.num_groups,
        std_floor=0.3,
        credit=credit,
    )
    if scope == "pooled":
        unsmoothed = unsmoothed.view_as(mixed)[place]
    value = advantages(rollouts, credit, impl, torch.float32)
    if impl == "reference":
        assert value.equal(unsmoothed)
    torch.testing.assert_close(value, unsmoothed)


@given(
    rollouts=rollout_lists(min_size=2, max_groups=2),
    preset=st.sampled_from(sorted(PRESETS)),
    random=st.randoms(use_true_random=False),
)
def test_permuting_the_rollouts_permutes_the_advantages(
    rollouts: list[Rollout], preset: str, random: Random, impl: str
) -> None:
    order = list(range(len(rollouts)))
    random.shuffle(order)
    credit = CreditConfig.preset(preset)

    def by_rollout(rollouts: Sequence[Rollout]) -> list[Tensor]:
        value = advantages(rollouts, credit, impl)
        return list(value.split([len(rollout.reward) for rollout in rollouts]))

    before = by_rollout(rollouts)
    after = by_rollout([rollouts[place] for place in order])
    for place, value in zip(order, after, strict=True):
        torch.testing.assert_close(value, before[place], rtol=1e-9, atol=1e-9)


@given(
    reward=st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), min_size=1, max_size=4),
    size=st.integers(1, 6),
    outcome=st.sampled_from([0.0, 1.0]),
    scope=st.sampled_from(GROUP_RELATIVE),
    channels=st.sampled_from(get_args(Channels)),
    std=st.sampled_from(get_args(Std)),
    leave_one_out=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rollouts_that_are_alike_in_everything_get_exact_zeros(
    reward: list[float],
    size: int,
    outcome: float,
    scope: Scope,
    channels: Channels,
    std: Std,
    leave_one_out: bool,
    dtype: torch.dtype,
    impl: str,
) -> None:
    rollouts = [Rollout(0, (1,) * len(reward), tuple(reward), outcome)] * size
    credit = CreditConfig(
        scope=scope,
        channels=channels,
        std=std,
        leave_one_out=leave_one_out,
        std_floor=0,
        epsilon=0,
        rollout_weight=0.5,
    )
    assert advantages(rollouts, credit, impl, dtype).eq(0).all()


@pytest.mark.parametrize("outcome", [0.0, 1.0])
@pytest.mark.parametrize("reward", [(0.0, 0.0), (1.0, 0.0, 0.5, 0.5, 0.0), (0.3,) * 6])
def test_no_credit_comes_of_the_discount_alone(
    reward: tuple[float, ...], outcome: float, impl: str
) -> None:
    """Late steps are discounted less: where all rollouts are alike, that must not matter."""
    rollouts = [Rollout(0, (1,) * len(reward), reward, outcome)] * 8
    stuck = torch.zeros(8 * len(reward), dtype=torch.int64)
    for preset in PRESETS:
        credit = CreditConfig.preset(preset)
        if credit.scope != "value":
            assert advantages(rollouts, credit, impl).eq(0).all()
    credit = CreditConfig.preset("finestep_state", state_shrinkage=0.5)
    batch, rewards = packed(rollouts), (step_reward(rollouts), rollout_outcome(rollouts))
    value = step_advantage(batch, *rewards, step_state=stuck, credit=credit, impl=impl)
    assert value.eq(0).all()


def test_a_spread_within_rounding_counts_as_none(impl: str) -> None:
    # The same sum in every order: it has several roundings, in float32 and in float64.
    rollouts = [Rollout(0, (1, 1, 1), reward) for reward in permutations((0.1, 0.6, 0.9))]
    credit = CreditConfig.preset("grpo_process", epsilon=0.0)
    for dtype in (torch.float32, torch.float64):
        assert advantages(rollouts, credit, impl, dtype).eq(0).all()


def test_totals_that_cancel_are_compared_within_the_rounding_of_what_was_added_up(
    impl: str,
) -> None:
    # (0.7 + 0.3 + 0.3 - 3) / 2 + 0.85 = 0 except rounding, which has no size of its own.
    orders = [(0.7, 0.3, 0.3), (0.3, 0.7, 0.3), (0.3, 0.3, 0.7), (0.7, 0.3, 0.3)]
    rollouts = [Rollout(0, (1, 1, 1), reward, 0.85) for reward in orders]
    credit = CreditConfig.preset("grpo_process", process_weight=0.5, process_baseline=1)
    for dtype in (torch.float32, torch.float64):
        assert advantages(rollouts, credit, impl, dtype).tolist() == [0] * 12


@given(
    reward=st.lists(st.integers(0, 10), min_size=1, max_size=7),
    outcome=st.integers(-40, 40),
    baseline=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    process_weight=st.sampled_from([0.1, 0.5, 1.0]),
    channels=st.sampled_from(get_args(Channels)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    cancelled=st.booleans(),
    random=st.randoms(use_true_random=False),
)
def test_rollouts_of_the_same_rewards_in_other_orders_get_exact_zeros(
    reward: list[int],
    outcome: int,
    baseline: float,
    process_weight: float,
    channels: Channels,
    dtype: torch.dtype,
    cancelled: bool,
    random: Random,
    impl: str,
) -> None:
    paid = outcome / 20
    if cancelled:  # the rewards cost what the outcome pays
        paid = -process_weight * (sum(reward) / 10 - baseline * len(reward))
    rollouts = []
    for _ in range(5):
        random.shuffle(reward)
        each = tuple(tenth / 10 for tenth in reward)
        rollouts.append(Rollout(0, (1,) * len(reward), each, paid))
    credit = CreditConfig(
        scope="trajectory",
        channels=channels,
        process_weight=process_weight,
        process_baseline=baseline,
        std_floor=0,
        epsilon=0,
    )
    assert advantages(rollouts, credit, impl, dtype).eq(0).all()


def test_long_rollouts_of_the_same_rewards_in_other_orders_get_exact_zeros(impl: str) -> None:
    # Each order has roundings of its own, and the more the longer it is.
    rewards = [0.1] * 50 + [0.7] * 50
    orders = [rewards, rewards[::-1], Random(0).sample(rewards, 100)]
    rollouts = [Rollout(0, (1,) * 100, tuple(reward), 0.85) for reward in orders]
    for baseline in (0, 0.4):
        credit = CreditConfig.preset("grpo_process", process_baseline=baseline, epsilon=0)
        for dtype in (torch.float32, torch.float64):
            assert advantages(rollouts, credit, impl, dtype).eq(0).all()


def test_a_small_difference_beyond_rounding_still_counts(impl: str) -> None:
    # 0.5e-4, where roundings of all that was added up, 0.85 + 4.3 / 2, reach 0.1e-4.
    rollouts = [Rollout(0, (1, 1, 1), (0.7, 0.3, 0.3 + more), 0.85) for more in (0, 1e-4)]
    credit = CreditConfig.preset("grpo_process", process_weight=0.5, process_baseline=1, epsilon=0)
    half = math.sqrt(0.5)
    for dtype in (torch.float32, torch.float64):
        value = advantages(rollouts, credit, impl, dtype).tolist()
        assert value == pytest.approx([-half] * 3 + [half] * 3, rel=1e-2)


def test_a_singleton_gets_0_in_every_scope_of_a_group(impl: str) -> None:
    for scope in GROUP_RELATIVE:
        for leave_one_out in (False, True):
            credit = CreditConfig(scope=scope, std="none", leave_one_out=leave_one_out)
            assert advantages([Rollout(0, (1,), (0.2,), 1)], credit, impl).tolist() == [0]


@given(
    rollouts=rollout_lists(min_size=2, max_groups=1),
    scale=st.sampled_from([0.01, 0.5, 3.0, 1000.0]),
    scope=st.sampled_from(GROUP_RELATIVE),
    smoothing=st.sampled_from([0.7, 1.0]),
)
def test_scaling_both_weights_leaves_z_scores_alone(
    rollouts: list[Rollout], scale: float, scope: Scope, smoothing: float, impl: str
) -> None:
    credit = CreditConfig(scope=scope, smoothing=smoothing, epsilon=0, **NO_FLOOR)
    scaled = replace(
        credit,
        process_weight=scale * credit.process_weight,
        outcome_weight=scale * credit.outcome_weight,
    )
    torch.testing.assert_close(
        advantages(rollouts, scaled, impl), advantages(rollouts, credit, impl), rtol=1e-6, atol=1e-6
    )


@given(rollouts=rollout_lists(min_size=2), scale=st.sampled_from([0.01, 3.0, 1000.0]))
def test_the_std_floor_scales_with_the_outcome_weight(
    rollouts: list[Rollout], scale: float, impl: str
) -> None:
    credit = CreditConfig(epsilon=0, std_floor=0.3)
    scaled = replace(credit, process_weight=0.1 * scale, outcome_weight=scale)
    torch.testing.assert_close(
        advantages(rollouts, scaled, impl), advantages(rollouts, credit, impl), rtol=1e-6, atol=1e-6
    )


def first_return(reward: Sequence[float], outcome: float, credit: CreditConfig) -> float:
    rollouts = [Rollout(0, (1,) * len(reward), tuple(reward), outcome)]
    batch = packed(rollouts)
    value = step_return(batch, step_reward(rollouts), rollout_outcome(rollouts), credit=credit)
    return float(value[0])


REWARDS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6)


@given(reward=REWARDS, data=st.data(), outcome=st.sampled_from([0.0, 1.0]))
def test_inserting_a_flawless_step_never_raises_the_first_return(
    reward: list[float], data: st.DataObject, outcome: float, impl: str
) -> None:
    """With b = 1. A flaw that the new step pushes back is discounted once more: see below."""
    place = data.draw(st.integers(0, len(reward)))
    undiscounted = place < len(reward) and any(p < 1 for p in reward[place:])
    credit = CreditConfig(process_discount=1.0 if undiscounted else 0.9)
    longer = [*reward[:place], 1.0, *reward[place:]]
    before, after = (first_return(each, outcome, credit) for each in (reward, longer))
    assert after <= before + 1e-12


@given(reward=REWARDS, place=st.integers(0, 6), outcome=st.sampled_from([0.0, 1.0]))
def test_pushing_flaws_back_by_a_flawless_step_gains_at_most_their_discount(
    reward: list[float], place: int, outcome: float, impl: str
) -> None:
    credit = CreditConfig()
    longer = [*reward[:place], 1.0, *reward[place:]]
    gain = first_return(longer, outcome, credit) - first_return(reward, outcome, credit)
    flaws = sum(credit.process_discount**s * (1 - p) for s, p in enumerate(reward) if s >= place)
    saved = credit.process_weight * (1 - credit.process_discount) * flaws
    assert gain <= saved + 1e-12
    assert first_return(longer, outcome, credit) <= outcome * credit.outcome_discount ** len(reward)


@given(rollouts=rollout_lists(min_size=2), preset=st.sampled_from(sorted(PRESETS)))
def test_advantages_of_steps_do_not_depend_on_token_counts_or_observations(
    rollouts: list[Rollout], preset: str, impl: str
) -> None:
    assume(any(rollout.reward for rollout in rollouts))
    credit = CreditConfig.preset(preset)
    longer = [
        replace(rollout, gap=(5, 0, 9), step_length=tuple(3 * n for n in rollout.step_length))
        for rollout in rollouts
    ]
    assert advantages(longer, credit, impl).equal(advantages(rollouts, credit, impl))

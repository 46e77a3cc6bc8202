"""What must hold for credit that is given states or values: the scopes `state` and `value`."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import CreditConfig
from support.batches import (
    Rollout,
    packed,
    rollout_lists,
    rollout_outcome,
    some_values,
    step_reward,
)
from support.entry_points import step_advantage
from support.impls import IMPLS
from support.settings import VALUE_ALONE

pytestmark = pytest.mark.parametrize("impl", IMPLS)


STATE_ALONE: dict[str, Any] = {"scope": "state", "step_weight": 1.0, "rollout_weight": 0.0}


@given(rollouts=rollout_lists(min_size=2), random=st.randoms(use_true_random=False), data=st.data())
def test_relabelling_states_changes_nothing(
    rollouts: list[Rollout], random: Random, data: st.DataObject, impl: str
) -> None:
    batch, rewards = packed(rollouts), (step_reward(rollouts), rollout_outcome(rollouts))
    keys = st.lists(st.integers(0, 5), min_size=batch.num_steps, max_size=batch.num_steps)
    state = torch.tensor(data.draw(keys), dtype=torch.int64)
    labels = torch.tensor(random.sample([-(2**63), -1, 0, 1, 77, 2**40, 2**63 - 1], 6))
    credit = CreditConfig.preset("finestep_state")
    value = step_advantage(batch, *rewards, step_state=state, credit=credit, impl=impl)
    again = step_advantage(batch, *rewards, step_state=labels[state], credit=credit, impl=impl)
    torch.testing.assert_close(again, value, rtol=0, atol=1e-12)


@given(rollouts=rollout_lists(min_size=2), smoothing=st.sampled_from([0.7, 1.0]))
def test_one_state_for_all_and_endless_shrinkage_are_pooled_without_the_own_rollout(
    rollouts: list[Rollout], smoothing: float, impl: str
) -> None:
    settings: dict[str, Any] = {"std": "none", "smoothing": smoothing, "advantage_clip": None}
    batch, rewards = packed(rollouts), (step_reward(rollouts), rollout_outcome(rollouts))
    without_own = CreditConfig(scope="pooled", leave_one_out=True, **settings)
    pooled = step_advantage(batch, *rewards, credit=without_own, impl=impl)
    one = torch.zeros(batch.num_steps, dtype=torch.int64)
    three = torch.arange(batch.num_steps) % 3
    for state, shrinkage in ((one, 0.0), (one, 2.0), (three, 1e12)):
        credit = CreditConfig(state_shrinkage=shrinkage, **STATE_ALONE, **settings)
        value = step_advantage(batch, *rewards, step_state=state, credit=credit, impl=impl)
        torch.testing.assert_close(value, pooled, rtol=1e-9, atol=1e-9)


@given(rollouts=rollout_lists(min_size=2), scale=st.sampled_from([0.5, 1.0]))
def test_differences_of_a_value_add_up_to_the_outcome_minus_the_first_value(
    rollouts: list[Rollout], scale: float, impl: str
) -> None:
    credit = replace(VALUE_ALONE, gae_lambda=1, process_weight=0, std="none", outcome_weight=scale)
    batch, value = packed(rollouts), some_values(packed(rollouts))
    outcome = rollout_outcome(rollouts)
    credited = step_advantage(
        batch, step_reward(rollouts), outcome, step_value=value, credit=credit, impl=impl
    )
    expected = scale * (outcome[batch.rollout_of_step] - value)
    torch.testing.assert_close(credited, expected, rtol=0, atol=1e-12)


@given(rollouts=rollout_lists(min_size=2), shift=st.sampled_from([-0.25, 0.5]))
def test_a_constant_added_to_every_value_reaches_the_outcome_alone(
    rollouts: list[Rollout], shift: float, impl: str
) -> None:
    """With gamma_o = 1 it leaves all differences but the last, which loses it."""
    credit = replace(VALUE_ALONE, std="none", process_weight=0)
    batch, rewards = packed(rollouts), (step_reward(rollouts), rollout_outcome(rollouts))
    value = some_values(batch)

    def of(step_value: Tensor) -> Tensor:
        return step_advantage(batch, *rewards, step_value=step_value, credit=credit, impl=impl)

    steps_left = (batch.step_offsets[1:] - 1)[batch.rollout_of_step] - torch.arange(batch.num_steps)
    expected = of(value) - shift * credit.gae_lambda**steps_left
    torch.testing.assert_close(of(value + shift), expected, rtol=0, atol=1e-12)


def test_a_step_that_leaves_the_value_as_it_is_is_worth_nothing(impl: str) -> None:
    rollouts = [Rollout(0, (1, 1), (1, 1), 1), Rollout(0, (1, 1, 1), (1, 1, 1), 0)]
    value = torch.tensor([0.4, 0.4, 0.4, 0.4, 0.7], dtype=torch.float64)
    credit = replace(VALUE_ALONE, gae_lambda=0)
    rewards = step_reward(rollouts), rollout_outcome(rollouts)
    credited = step_advantage(
        packed(rollouts), *rewards, step_value=value, credit=credit, impl=impl
    )
    root = math.sqrt(0.5) + 1e-6
    expected = [0, 0.6 / root, 0, 0.3 / root, -0.7 / root]
    assert credited.tolist() == pytest.approx(expected, abs=1e-12)


def test_an_exact_value_gives_the_exact_advantage(impl: str) -> None:
    """A chain: the first step finds the table with 1/2 at will, the second answers.

    A rollout that found it is right with 0.8, one that did not with 0.2. So V = 0.5 at first, then
    0.8 or 0.2, and finding is worth +0.3, not finding -0.3, however the rollout ends.
    """
    rollouts, values, expected = [], [], []
    for found, right, count in ((1, 1, 8), (1, 0, 2), (0, 1, 2), (0, 0, 8)):
        after = 0.8 if found else 0.2
        rollouts += [Rollout(0, (1, 1), (1, 1), right)] * count
        values += [0.5, after] * count
        expected += [after - 0.5, right - after] * count
    credit = replace(VALUE_ALONE, gae_lambda=0, std="none")
    rewards = step_reward(rollouts), rollout_outcome(rollouts)
    credited = step_advantage(
        packed(rollouts),
        *rewards,
        step_value=torch.tensor(values, dtype=torch.float64),
        credit=credit,
        impl=impl,
    )
    assert credited.tolist() == pytest.approx(expected, abs=1e-12)
    # Whatever lambda is, the mean over the rollouts that found it is the same.
    for gae_lambda in (0.5, 1.0):
        other = step_advantage(
            packed(rollouts),
            *rewards,
            step_value=torch.tensor(values, dtype=torch.float64),
            credit=replace(credit, gae_lambda=gae_lambda),
            impl=impl,
        )
        assert float(other[:20:2].mean()) == pytest.approx(0.3)

"""Why the order of credit is law: an environment in which the policy chooses when to stop.

At each of six steps the policy stops with probability 1/2 (the sixth ends anyhow); going on earns a
process reward of 0.1, stopping pays an outcome that is 1 with probability 1/2. Nothing is
discounted. The gradient of the expected reward with respect to the logit of going on is
`0.1 sum over k = 1..5 of k (1/2)^(k+1) = 0.0890625`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from finestep_fast import CreditConfig, StepBatch
from finestep_fast.config.credit import Scope
from finestep_fast.reference.comparison import group_relative
from finestep_fast.reference.returns import process_return
from support.entry_points import step_advantage
from support.impls import IMPLS

EXACT = 0.1 * sum(k * 0.5 ** (k + 1) for k in range(1, 6))
SCOPES_OF_GROUPS: list[Scope] = [scope for scope in get_args(Scope) if scope != "value"]
NUM_GROUPS, GROUP_SIZE, NUM_STEPS = 40_000, 8, 6
CREDIT = CreditConfig(
    process_baseline=0,
    process_weight=0.1,
    process_discount=1,
    outcome_discount=1,
    smoothing=1,
    scope="per_index",
    std="none",
    leave_one_out=True,
    advantage_clip=None,
)


class Toy(NamedTuple):
    batch: StepBatch
    step_reward: Tensor
    rollout_outcome: Tensor
    step_score: Tensor
    """[S] gradient of the log-probability of what the policy chose at that step."""

    def gradient(self, step_advantage: Tensor) -> float:
        return float((step_advantage * self.step_score).sum() / self.batch.num_rollouts)


@pytest.fixture(scope="module")
def toy() -> Toy:
    generator = torch.Generator().manual_seed(1)
    num_rollouts = NUM_GROUPS * GROUP_SIZE
    stops = torch.rand(num_rollouts, NUM_STEPS, generator=generator) < 0.5
    stops[:, -1] = True
    taken = stops.cumsum(1) - stops.long() == 0
    token_mask = torch.zeros(num_rollouts, 2 * NUM_STEPS, dtype=torch.bool)
    token_mask[:, ::2] = taken
    group = torch.arange(num_rollouts) // GROUP_SIZE
    goes_on = (~stops)[taken].double()
    chosen = torch.where(goes_on == 1, 0.5, -0.5)
    forced = torch.arange(NUM_STEPS).expand(num_rollouts, -1)[taken] == NUM_STEPS - 1
    return Toy(
        batch=StepBatch.from_mask(token_mask, group),
        step_reward=goes_on,
        rollout_outcome=torch.randint(2, (num_rollouts,), generator=generator).double(),
        step_score=chosen.masked_fill(forced, 0),
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_leave_one_out_per_index_estimates_the_gradient_within_a_tenth(toy: Toy, impl: str) -> None:
    advantage = step_advantage(
        toy.batch, toy.step_reward, toy.rollout_outcome, credit=CREDIT, impl=impl
    )
    assert toy.gradient(advantage) == pytest.approx(EXACT, rel=0.1)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shrinkage", [0.0, 2.0])
def test_states_estimate_the_gradient_within_a_tenth(toy: Toy, shrinkage: float, impl: str) -> None:
    """Those who have gone on equally often are in one state; odd and even groups label it apart."""
    credit = replace(CREDIT, scope="state", state_shrinkage=shrinkage)
    group = toy.batch.group_of_rollout[toy.batch.rollout_of_step]
    state = toy.batch.position_of_step + 10 * (group % 2)
    rewards = toy.step_reward, toy.rollout_outcome
    advantage = step_advantage(toy.batch, *rewards, step_state=state, credit=credit, impl=impl)
    assert toy.gradient(advantage) == pytest.approx(EXACT, rel=0.1)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_outcomes_minus_a_value_estimate_the_gradient_within_a_tenth(
    toy: Toy, value: float, impl: str
) -> None:
    credit = replace(CREDIT, scope="value", gae_lambda=1)
    values = torch.full((toy.batch.num_steps,), value, dtype=torch.float64)
    rewards = toy.step_reward, toy.rollout_outcome
    advantage = step_advantage(toy.batch, *rewards, step_value=values, credit=credit, impl=impl)
    assert toy.gradient(advantage) == pytest.approx(EXACT, rel=0.1)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("scope", SCOPES_OF_GROUPS)
def test_every_scope_of_a_group_has_the_sign_of_the_gradient(
    toy: Toy, scope: Scope, impl: str
) -> None:
    credit = replace(CREDIT, scope=scope)
    advantage = step_advantage(
        toy.batch, toy.step_reward, toy.rollout_outcome, credit=credit, impl=impl
    )
    assert toy.gradient(advantage) > EXACT / 4


def test_comparing_rewards_before_accumulating_them_turns_the_sign(toy: Toy) -> None:
    batch = toy.batch
    last = batch.step_offsets[1:] - 1
    reward = 0.1 * toy.step_reward
    reward[last] += toy.rollout_outcome
    cell = batch.group_of_rollout[batch.rollout_of_step] * NUM_STEPS + batch.position_of_step
    compared = group_relative(
        reward,
        cell,
        rounding=torch.zeros_like(reward),
        num_sets=NUM_GROUPS * NUM_STEPS,
        std_floor=0,
        credit=CreditConfig(std="none"),
    )
    wrong = toy.gradient(process_return(batch, compared, discount=1.0))
    assert wrong == pytest.approx(-0.145, rel=0.05)

"""The policy loss: gradcheck, a second computation in loops, exactness, dtypes, empty batches."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast import LossConfig
from finestep_fast.arguments import COUNT_OF_AGGREGATION
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from finestep_fast.reference.loss import (
    AGGREGATIONS,
    KINDS,
    KLS,
    RATIOS,
    LossCounts,
)
from support.batches import SHAPES, Rollout, packed, padded, policy_values, rollout_lists
from support.entry_points import policy_loss, step_advantage, step_policy_loss
from support.impls import IMPLS
from support.loops import loop_policy_loss
from support.policy_losses import CONFIGS, RAGGED, inputs, loss_and_gradient, named
from support.tolerance import assert_as_exact

pytestmark = pytest.mark.parametrize("impl", IMPLS)

# Of what is shared in value alone there is no gradient of the value: its slope is tested below.
CHECKED = [loss for loss in CONFIGS if loss.ratio in ("token", "rollout_averaged")]


@pytest.mark.parametrize("loss", [loss for loss in CHECKED if loss.kind == "ppo"], ids=named)
def test_gradcheck(loss: LossConfig, impl: str) -> None:
    if impl not in ("reference", "cpp"):
        pytest.skip("finite differences need float64 inside")
    batch = packed(RAGGED)
    tensors = inputs(batch, loss, fill=0.0)
    logp = tensors.pop("token_logp").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logp: policy_loss(logp, batch=batch, **tensors, loss=loss, impl=impl).loss, (logp,)
    )


@pytest.mark.parametrize("loss", CONFIGS, ids=named)
def test_loss_equals_a_second_computation_in_loops(loss: LossConfig, impl: str) -> None:
    batch = packed(RAGGED)
    values = {name: value.tolist() for name, value in policy_values(5, batch).items()}
    expected = loop_policy_loss(RAGGED, loss=loss, **values)
    value, _ = loss_and_gradient(batch, inputs(batch, loss, seed=5), loss, impl)
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", CONFIGS, ids=named)
def test_the_gradient_is_the_slope_of_a_second_computation(loss: LossConfig, impl: str) -> None:
    rollouts = SHAPES["a group of one beside a group of two"]
    batch = packed(rollouts)
    values = {name: value.tolist() for name, value in policy_values(5, batch).items()}
    here = values.pop("token_logp")

    def loss_at(place: int, apart: float) -> float:
        logp = [*here[:place], here[place] + apart, *here[place + 1 :]]
        return loop_policy_loss(rollouts, loss=loss, token_logp=logp, held_logp=here, **values)

    slope = [(loss_at(t, 1e-5) - loss_at(t, -1e-5)) / 2e-5 for t in range(len(here))]
    _, gradient = loss_and_gradient(batch, inputs(batch, loss, seed=5), loss, impl)
    assert gradient[batch.policy_token].tolist() == pytest.approx(slope, rel=1e-6, abs=1e-9)


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), seed=st.integers(0, 99))
def test_loss_of_any_batch_equals_a_second_computation(
    rollouts: list[Rollout], loss: LossConfig, seed: int, impl: str
) -> None:
    batch = packed(rollouts)
    values = {name: value.tolist() for name, value in policy_values(seed, batch).items()}
    expected = loop_policy_loss(rollouts, loss=loss, **values)
    value, _ = loss_and_gradient(batch, inputs(batch, loss, seed), loss, impl)
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_as_exact_as_the_float32_reference(shape: str, ratio: Ratio, impl: str) -> None:
    batch, loss = packed(SHAPES[shape]), LossConfig(ratio=ratio, kl="k3", kl_weight=0.1)
    single = {name: value.float() for name, value in inputs(batch, loss).items()}
    exact = {name: value.double() for name, value in single.items()}
    truth = loss_and_gradient(batch, exact, loss, "reference")
    for candidate, reference, true in zip(
        loss_and_gradient(batch, single, loss, impl),
        loss_and_gradient(batch, single, loss, "reference"),
        truth,
        strict=True,
    ):
        assert_as_exact(candidate, reference, true)
        torch.testing.assert_close(candidate.double(), true, rtol=0, atol=2e-5)


def test_a_padded_tensor_gets_a_gradient_of_its_shape_even_when_transposed(impl: str) -> None:
    batch = padded(RAGGED)
    loss = LossConfig()
    tensors = inputs(batch, loss)
    flat_value, flat_gradient = loss_and_gradient(batch, tensors, loss, impl)
    shape = (len(RAGGED), -1)
    rows = {
        name: value.view(shape).T.contiguous().T if name.startswith("token") else value
        for name, value in tensors.items()
    }
    value, gradient = loss_and_gradient(batch, rows, loss, impl)
    assert value.equal(flat_value)
    assert gradient.equal(flat_gradient.view(shape))


def test_only_the_policys_logp_gets_a_gradient(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(kl="k3", kl_weight=0.1)
    tensors = {name: value.requires_grad_() for name, value in inputs(batch, loss).items()}
    out = policy_loss(batch=batch, **tensors, loss=loss, impl=impl)
    out.loss.backward()
    assert [name for name, value in tensors.items() if value.grad is not None] == ["token_logp"]
    assert not any(value.requires_grad for value in out.metrics.values())


def test_a_batch_without_steps_has_loss_0_and_gradient_0(impl: str) -> None:
    for shape in ("everything masked", "nothing at all"):
        batch = packed(SHAPES[shape])
        value, gradient = loss_and_gradient(batch, inputs(batch, LossConfig()), LossConfig(), impl)
        assert value.item() == 0
        assert gradient.eq(0).all()


def test_bfloat16_logps_give_a_float32_loss_and_a_bfloat16_gradient(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig()
    half = {name: value.bfloat16() for name, value in inputs(batch, loss).items()}
    value, gradient = loss_and_gradient(batch, half, loss, impl)
    exact = {name: value.float() for name, value in half.items()}
    expected, expected_gradient = loss_and_gradient(batch, exact, loss, impl)
    assert value.dtype == torch.float32
    assert value.equal(expected)
    assert gradient.equal(expected_gradient.bfloat16())


def test_step_policy_loss_is_the_policy_loss_of_the_step_advantages(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(kl="k2", kl_weight=0.1)
    tensors = inputs(batch, loss)
    del tensors["step_advantage"]
    reward = torch.rand(batch.num_steps, generator=torch.Generator().manual_seed(0))
    outcome = torch.tensor([1, 0, 0, 1])
    logp = tensors.pop("token_logp").requires_grad_()
    one = step_policy_loss(
        logp,
        batch=batch,
        step_reward=reward,
        rollout_outcome=outcome,
        **tensors,
        loss=loss,
        impl=impl,
    )
    advantage = step_advantage(batch, reward, outcome, impl=impl)
    two = policy_loss(logp, batch=batch, step_advantage=advantage, **tensors, loss=loss, impl=impl)
    torch.testing.assert_close(one.loss, two.loss)
    gradients = [torch.autograd.grad(out.loss, logp)[0] for out in (one, two)]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert one.metrics.keys() == two.metrics.keys()


def test_choices_of_the_config_are_those_of_the_reference(impl: str) -> None:
    assert set(KINDS) == set(get_args(Kind))
    assert set(RATIOS) == set(get_args(Ratio))
    assert set(AGGREGATIONS) == set(COUNT_OF_AGGREGATION) == set(get_args(Aggregation))
    assert set(KLS) == set(get_args(KL))
    assert set(COUNT_OF_AGGREGATION.values()) <= set(LossCounts._fields)

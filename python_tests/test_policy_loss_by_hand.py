"""The policy loss: cases worked by hand."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from finestep_fast import LossConfig, StepBatch
from finestep_fast.config.loss import KL, Aggregation, Ratio
from support.entry_points import policy_loss
from support.impls import IMPLS
from support.policy_losses import NAN

pytestmark = pytest.mark.parametrize("impl", IMPLS)

# Two steps of one rollout and one of another; token 0 and 5 are observations.
BATCH = StepBatch.from_spans([[(1, 3), (3, 5)], [(6, 7)]], [0, 0], num_tokens=7)


ADVANTAGE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
RATIO = torch.tensor([9.0, 1.5, 0.5, 1.5, 0.5, 9.0, 1.0], dtype=torch.float64)
OLD = torch.full((7,), -1.0, dtype=torch.float64)


def hand(
    loss: LossConfig, impl: str, **changes: Tensor
) -> tuple[float, list[float], dict[str, Any]]:
    """Return loss, gradient and metrics of the example, as Python numbers."""
    logp = (OLD + RATIO.log()).requires_grad_()
    given: dict[str, Any] = {"token_logp_old": OLD, "batch": BATCH, "step_advantage": ADVANTAGE}
    out = policy_loss(logp, **{**given, **changes}, loss=loss, impl=impl)
    out.loss.backward()
    assert logp.grad is not None
    metrics = {name: value.tolist() for name, value in out.metrics.items()}
    return out.loss.item(), logp.grad.tolist(), metrics


def test_ppo_by_hand(impl: str) -> None:
    # A = 1: min(1.5, 1.28), min(0.5, 0.8); A = -2: min(-3, -2.56), min(-1, -1.6); A = 0.5: 0.5
    loss, gradient, metrics = hand(LossConfig(), impl)
    assert loss == pytest.approx(-(1.28 + 0.5 - 3 - 1.6 + 0.5) / 5)
    assert gradient == pytest.approx([0, 0, -0.5 / 5, 3 / 5, 0, 0, -0.5 / 5])
    assert metrics["policy_tokens"] == 5
    assert metrics["clip_fraction_high"] == pytest.approx(1 / 5)
    assert metrics["clip_fraction_low"] == pytest.approx(1 / 5)
    assert metrics["clip_fraction_dual"] == 0


def test_dual_clip_by_hand(impl: str) -> None:
    loss, gradient, metrics = hand(LossConfig(dual_clip=1.4), impl)
    assert loss == pytest.approx(-(1.28 + 0.5 - 2.8 - 1.6 + 0.5) / 5)
    assert gradient == pytest.approx([0, 0, -0.5 / 5, 0, 0, 0, -0.5 / 5])
    assert metrics["clip_fraction_dual"] == pytest.approx(1 / 5)


def test_cispo_by_hand(impl: str) -> None:
    # The gradient of every token is its clipped ratio times its advantage.
    loss, gradient, metrics = hand(LossConfig(kind="cispo"), impl)
    weight = [1.28 * 1, 0.8 * 1, 1.28 * -2, 0.8 * -2, 1 * 0.5]
    logp = [-1 + math.log(ratio) for ratio in (1.5, 0.5, 1.5, 0.5, 1)]
    assert loss == pytest.approx(-sum(w * x for w, x in zip(weight, logp, strict=True)) / 5)
    expected = [-w / 5 for w in weight]
    assert gradient == pytest.approx([0, *expected[:4], 0, expected[4]])
    assert metrics["clip_fraction_high"] == metrics["clip_fraction_low"] == pytest.approx(2 / 5)


def test_step_ratio_by_hand(impl: str) -> None:
    # Both steps of the first rollout share sqrt(1.5 * 0.5) = 0.866: A = 1: 0.866; A = -2: -1.732
    shared = math.sqrt(0.75)
    loss, gradient, _ = hand(LossConfig(ratio="step"), impl)
    assert loss == pytest.approx(-(2 * shared - 4 * shared + 0.5) / 5)
    expected = [-shared / 5, -shared / 5, 2 * shared / 5, 2 * shared / 5]
    assert gradient == pytest.approx([0, *expected, 0, -0.5 / 5])


def test_cispo_with_a_step_ratio_weighs_each_token_by_its_steps_ratio(impl: str) -> None:
    shared = math.sqrt(0.75)
    _, gradient, _ = hand(LossConfig(kind="cispo", ratio="step"), impl)
    expected = [-shared / 5, -shared / 5, 2 * shared / 5, 2 * shared / 5]
    assert gradient == pytest.approx([0, *expected, 0, -0.5 / 5])


def test_rollout_ratio_by_hand(impl: str) -> None:
    # All four tokens share (1.5 * 0.5 * 1.5 * 0.5)^(1/4); each moves by its own step's advantage.
    shared = math.sqrt(0.75)
    loss, gradient, metrics = hand(LossConfig(ratio="rollout"), impl)
    assert loss == pytest.approx(-(2 * shared - 4 * shared + 0.5) / 5)
    expected = [-shared / 5, -shared / 5, 2 * shared / 5, 2 * shared / 5]
    assert gradient == pytest.approx([0, *expected, 0, -0.5 / 5])
    assert metrics["ratio_mean"] == pytest.approx((4 * shared + 1) / 5)
    assert metrics["ratio_max"] == 1


def test_averaged_rollout_ratio_by_hand(impl: str) -> None:
    # The same loss; each token moves by the mean of all terms of its rollout.
    shared = math.sqrt(0.75)
    loss, gradient, metrics = hand(LossConfig(ratio="rollout_averaged"), impl)
    assert loss == pytest.approx(-(2 * shared - 4 * shared + 0.5) / 5)
    assert gradient == pytest.approx([0, *[2 * shared / 4 / 5] * 4, 0, -0.5 / 5])
    assert metrics == hand(LossConfig(ratio="rollout"), impl)[2]


def test_step_advantages_that_cancel_over_a_rollout_still_teach(impl: str) -> None:
    mask = torch.tensor([[1, 1, 0, 1, 1]], dtype=torch.bool)
    given: dict[str, Any] = {
        "token_logp_old": torch.full((1, 5), -1.0, dtype=torch.float64),
        "batch": StepBatch.from_mask(mask, group_of_rollout=torch.tensor([0])),
        "step_advantage": torch.tensor([1.0, -1.0], dtype=torch.float64),
    }

    def gradient(ratio: Ratio) -> list[float]:
        logp = given["token_logp_old"].clone().requires_grad_()
        out = policy_loss(logp, **given, loss=LossConfig(ratio=ratio), impl=impl)
        out.loss.backward()
        assert logp.grad is not None
        slopes: list[float] = logp.grad[0].tolist()
        return slopes

    for ratio in ("token", "step", "rollout"):
        assert gradient(ratio) == [-0.25, -0.25, 0, 0.25, 0.25]
    assert gradient("rollout_averaged") == [0, 0, 0, 0, 0]


def test_a_shared_ratio_is_clipped_for_each_token_by_its_own_advantage(impl: str) -> None:
    # All share 1.5: A = 1 is held at 1.28; A = -2 is not, unless the dual clip is 1.4.
    above: dict[str, Any] = {"token_logp_old": OLD + (RATIO / 1.5).log(), "impl": impl}
    loss, gradient, metrics = hand(LossConfig(ratio="rollout"), **above)
    assert loss == pytest.approx(-(2 * 1.28 - 4 * 1.5 + 0.5 * 1.28) / 5)
    assert gradient == pytest.approx([0, 0, 0, 3 / 5, 3 / 5, 0, 0])
    assert metrics["clip_fraction_high"] == pytest.approx(3 / 5)
    loss, gradient, metrics = hand(LossConfig(ratio="rollout", dual_clip=1.4), **above)
    assert loss == pytest.approx(-(2 * 1.28 - 4 * 1.4 + 0.5 * 1.28) / 5)
    assert gradient == [0] * 7
    assert metrics["clip_fraction_dual"] == pytest.approx(2 / 5)


def test_of_a_shared_ratio_each_token_has_its_own_weight(impl: str) -> None:
    weight = torch.tensor([NAN, 2, 1, 0.5, 1, NAN, 0], dtype=torch.float64)
    shared = math.sqrt(0.75)
    own = [-2 * shared / 5, -shared / 5, shared / 5, 2 * shared / 5]
    for ratio in ("step", "rollout"):
        loss, gradient, _ = hand(LossConfig(ratio=ratio), impl, token_weight=weight)
        assert loss == pytest.approx(-(3 * shared - 3 * shared) / 5)
        assert gradient == pytest.approx([0, *own, 0, 0])
    averaged = LossConfig(ratio="rollout_averaged")
    loss, gradient, _ = hand(averaged, impl, token_weight=weight)
    assert loss == pytest.approx(0)
    assert gradient == pytest.approx([0] * 7)


def test_aggregations_by_hand(impl: str) -> None:
    term = [1.28, 0.5, -3, -1.6, 0.5]
    expected: dict[Aggregation, float] = {
        "token_mean": sum(term) / 5,
        "rollout_mean": (sum(term[:4]) / 4 + 0.5) / 2,
        "step_mean": ((1.28 + 0.5) / 2 + (-3 - 1.6) / 2 + 0.5) / 3,
        "constant": sum(term) / (2 * 10),
    }
    assert set(expected) == set(get_args(Aggregation))
    for aggregation, value in expected.items():
        tokens = 10 if aggregation == "constant" else None
        config = LossConfig(aggregation=aggregation, constant_tokens=tokens)
        assert hand(config, impl)[0] == pytest.approx(-value)


def test_kl_kinds_by_hand(impl: str) -> None:
    reference = OLD + RATIO.log() - 0.5  # logp - logp_ref = 0.5 everywhere
    expected: dict[KL, float] = {"k1": 0.5, "k2": 0.125, "k3": math.exp(-0.5) + 0.5 - 1}
    slope = {"k1": 1, "k2": 0.5, "k3": 1 - math.exp(-0.5)}
    plain_loss, plain_gradient, _ = hand(LossConfig(), impl)
    for kl, value in expected.items():
        config = LossConfig(kl=kl, kl_weight=0.1)
        loss, gradient, metrics = hand(config, impl, token_logp_ref=reference)
        assert loss == pytest.approx(plain_loss + 0.1 * value)
        assert metrics["reference_kl"] == pytest.approx(value)
        added = [after - before for after, before in zip(gradient, plain_gradient, strict=True)]
        each = 0.1 * slope[kl] / 5
        assert added == pytest.approx([0, each, each, each, each, 0, each])


def test_token_weights_multiply_after_the_clip(impl: str) -> None:
    weight = torch.tensor([NAN, 2, 1, 0.5, 1, NAN, 0], dtype=torch.float64)
    loss, gradient, _ = hand(LossConfig(), impl, token_weight=weight)
    assert loss == pytest.approx(-(2 * 1.28 + 0.5 - 1.5 - 1.6) / 5)
    assert gradient == pytest.approx([0, 0, -0.5 / 5, 1.5 / 5, 0, 0, 0])


def test_log_ratios_are_cut_at_20(impl: str) -> None:
    logp = torch.tensor([-1.0, -1.0, -51.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-31.0, -1.0, -1.0], dtype=torch.float64)
    batch = StepBatch.from_spans([[(0, 3)]], [0], num_tokens=3)
    minus_one = torch.tensor([-1.0], dtype=torch.float64)
    out = policy_loss(logp, old, batch, minus_one, impl=impl)
    out.loss.backward()
    assert out.loss.item() == pytest.approx((math.exp(20) + 1 + 0.8) / 3)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0, 1 / 3, 0])


@pytest.mark.parametrize("ratio", get_args(Ratio)[1:])
def test_of_a_shared_ratio_a_log_ratio_that_is_cut_has_no_gradient(ratio: Ratio, impl: str) -> None:
    # The mean of 20, 0 and -20: the ratio is 1.
    logp = torch.tensor([-1.0, -1.0, -51.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-31.0, -1.0, -1.0], dtype=torch.float64)
    batch = StepBatch.from_spans([[(0, 3)]], [0], num_tokens=3)
    minus_one = torch.tensor([-1.0], dtype=torch.float64)
    out = policy_loss(logp, old, batch, minus_one, loss=LossConfig(ratio=ratio), impl=impl)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(1)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0, 1 / 3, 0])


def test_metrics_by_hand(impl: str) -> None:
    metrics = hand(LossConfig(), impl)[2]
    ratio = [1.5, 0.5, 1.5, 0.5, 1]
    assert metrics["ratio_mean"] == pytest.approx(1)
    assert metrics["ratio_max"] == pytest.approx(1.5)
    assert metrics["approx_kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratio) / 5)
    assert metrics["effective_sample_size"] == pytest.approx(25 / sum(r * r for r in ratio) / 5)
    assert metrics["advantage_by_position"] == pytest.approx([0.75, -2])
    assert "reference_kl" not in metrics

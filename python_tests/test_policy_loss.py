"""The policy loss: cases worked by hand, gradcheck, the method told twice, and its laws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import LossConfig, StepBatch
from finestep_fast.arguments import COUNT_OF_AGGREGATION
from finestep_fast.config.loss import KL, Aggregation, Kind, Ratio
from finestep_fast.reference.loss import (
    AGGREGATIONS,
    KINDS,
    KLS,
    RATIOS,
    LossCounts,
)
from support.batches import (
    SHAPES,
    Rollout,
    packed,
    padded,
    placed,
    policy_values,
    rollout_lists,
)
from support.doors import policy_loss, step_advantage, step_policy_loss
from support.impls import IMPLS
from support.loops import loop_policy_loss
from support.tolerance import assert_as_exact

pytestmark = pytest.mark.parametrize("impl", IMPLS)

# Two steps of one rollout and one of another; token 0 and 5 are observations.
BATCH = StepBatch.from_spans([[(1, 3), (3, 5)], [(6, 7)]], [0, 0], num_tokens=7)
ADVANTAGE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
RATIO = torch.tensor([9.0, 1.5, 0.5, 1.5, 0.5, 9.0, 1.0], dtype=torch.float64)
OLD = torch.full((7,), -1.0, dtype=torch.float64)
N = float("nan")


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
    # All share 1.5: A = 1 is held at 1.28; A = -2 is not, but for a dual clip of 1.4.
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
    weight = torch.tensor([N, 2, 1, 0.5, 1, N, 0], dtype=torch.float64)
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
    weight = torch.tensor([N, 2, 1, 0.5, 1, N, 0], dtype=torch.float64)
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


CONFIGS = [
    LossConfig(
        kind=kind,
        ratio=ratio,
        aggregation=aggregation,
        constant_tokens=9 if aggregation == "constant" else None,
        dual_clip=1.5 if kind == "ppo" and ratio == "token" else None,
        kl=kl,
        kl_weight=0.3 if kl else 0,
    )
    for kind, ratio, aggregation, kl in product(
        get_args(Kind), get_args(Ratio), get_args(Aggregation), [None, *get_args(KL)]
    )
]


def named(loss: LossConfig) -> str:
    return "-".join(filter(None, [loss.kind, loss.ratio, loss.aggregation, loss.kl]))


RATIOS_OF_ROLLOUTS: tuple[Ratio, ...] = ("rollout", "rollout_averaged")
RAGGED = SHAPES["odd sizes, groups interleaved"]


def inputs(batch: StepBatch, loss: LossConfig, seed: int = 0, fill: float = N) -> dict[str, Any]:
    """Return the arguments of `policy_loss` that are tensors; what nobody owns is `fill`."""
    values = policy_values(seed, batch)
    advantage = values.pop("step_advantage")
    placed_values = {name: placed(batch, value, fill=fill) for name, value in values.items()}
    if loss.kl is None:
        del placed_values["token_logp_ref"]
    return {**placed_values, "step_advantage": advantage}


def loss_and_gradient(
    batch: StepBatch, tensors: Mapping[str, Tensor], loss: LossConfig, impl: str, **counts: Any
) -> tuple[Tensor, Tensor]:
    logp = tensors["token_logp"].detach().clone().requires_grad_()
    rest: dict[str, Any] = {name: value for name, value in tensors.items() if name != "token_logp"}
    out = policy_loss(logp, batch=batch, **rest, loss=loss, impl=impl, **counts)
    out.loss.backward()
    assert logp.grad is not None
    return out.loss.detach(), logp.grad


# Of what is shared in value alone there is no gradient of the value: its slope is told below.
CHECKED = [loss for loss in CONFIGS if loss.ratio in ("token", "rollout_averaged")]


@pytest.mark.parametrize("loss", [loss for loss in CHECKED if loss.kind == "ppo"], ids=named)
def test_gradcheck(loss: LossConfig, impl: str) -> None:
    if impl not in ("reference", "cpp"):
        pytest.skip("finite differences need float64 inside")
    batch = packed(RAGGED)
    tensors = inputs(batch, loss, fill=0.0)
    logp = tensors.pop("token_logp").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logp: policy_loss(logp, batch=batch, **tensors, loss=loss, impl=impl).loss,
        (logp,),
    )


@pytest.mark.parametrize("loss", CONFIGS, ids=named)
def test_loss_equals_a_second_telling_in_loops(loss: LossConfig, impl: str) -> None:
    batch = packed(RAGGED)
    values = {name: value.tolist() for name, value in policy_values(5, batch).items()}
    expected = loop_policy_loss(RAGGED, loss=loss, **values)
    value, _ = loss_and_gradient(batch, inputs(batch, loss, seed=5), loss, impl)
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", CONFIGS, ids=named)
def test_the_gradient_is_the_slope_of_a_second_telling(loss: LossConfig, impl: str) -> None:
    rollouts = SHAPES["a group of one beside a group of two"]
    batch = packed(rollouts)
    values = {name: value.tolist() for name, value in policy_values(5, batch).items()}
    here = values.pop("token_logp")

    def telling(place: int, apart: float) -> float:
        logp = [*here[:place], here[place] + apart, *here[place + 1 :]]
        return loop_policy_loss(rollouts, loss=loss, token_logp=logp, held_logp=here, **values)

    slope = [(telling(t, 1e-5) - telling(t, -1e-5)) / 2e-5 for t in range(len(here))]
    _, gradient = loss_and_gradient(batch, inputs(batch, loss, seed=5), loss, impl)
    assert gradient[batch.policy_token].tolist() == pytest.approx(slope, rel=1e-6, abs=1e-9)


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), seed=st.integers(0, 99))
def test_advantages_that_cancel_over_a_rollout_still_teach(
    rollouts: list[Rollout], loss: LossConfig, seed: int, impl: str
) -> None:
    # The second half of each rollout's steps costs what the first half is worth.
    twice = [replace(rollout, step_length=rollout.step_length * 2) for rollout in rollouts]
    batch, loss = packed(twice), replace(loss, kl=None, kl_weight=0)
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.rand(len(each.step_length), generator=generator) + 0.1 for each in rollouts]
    tensors = inputs(batch, loss, seed)
    tensors["step_advantage"] = torch.cat([torch.cat([half, -half]) for half in halves]).double()
    tensors["token_logp_old"] = tensors["token_logp"]
    del tensors["token_weight"]
    _, own = loss_and_gradient(batch, tensors, replace(loss, ratio="token"), "reference")
    assert own[batch.policy_token].ne(0).all()
    _, gradient = loss_and_gradient(batch, tensors, loss, impl)
    cancels = loss.ratio == "rollout_averaged" and loss.kind == "ppo"
    expected = torch.zeros_like(own) if cancels else own
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-12)


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), seed=st.integers(0, 99))
def test_with_one_advantage_for_a_rollout_the_mean_moves_each_token_as_its_own_ratio_does(
    rollouts: list[Rollout], loss: LossConfig, seed: int, impl: str
) -> None:
    assume(loss.aggregation != "step_mean")  # weighs the tokens of a rollout differently
    batch = packed(rollouts)
    tensors = inputs(batch, loss, seed)
    del tensors["token_weight"]
    generator = torch.Generator().manual_seed(seed)
    of_rollout = torch.randn(batch.num_rollouts, generator=generator, dtype=torch.float64)
    tensors["step_advantage"] = of_rollout[batch.rollout_of_step]
    results = []
    for ratio in RATIOS_OF_ROLLOUTS:
        config = replace(loss, ratio=ratio, dual_clip=1.1 if loss.kind == "ppo" else None)
        results.append(loss_and_gradient(batch, tensors, config, impl))
    for own, averaged in zip(*results, strict=True):
        torch.testing.assert_close(own, averaged, rtol=1e-7, atol=1e-12)


@given(
    rollouts=rollout_lists(),
    loss=st.sampled_from(CONFIGS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_of_a_steps_ratio_only_token_weights_tell_the_mean_from_each_tokens_own(
    rollouts: list[Rollout], loss: LossConfig, weighted: bool, seed: int, impl: str
) -> None:
    assume(loss.aggregation in ("token_mean", "step_mean"))
    own = replace(loss, ratio="step", kl=None, kl_weight=0)
    averaged = replace(own, ratio="rollout_averaged")
    # What is averaged over a rollout of one step is averaged over the step.
    batch = packed(rollouts)
    spans = list(zip(batch.step_start.tolist(), batch.step_end.tolist(), strict=True))
    alone = StepBatch.from_spans(
        [[span] for span in spans], [0] * batch.num_steps, num_tokens=batch.num_tokens
    )
    tensors = inputs(batch, own, seed)
    if not weighted:
        del tensors["token_weight"]
    _, gradient = loss_and_gradient(batch, tensors, own, impl)
    _, of_mean = loss_and_gradient(alone, tensors, averaged, impl)
    pairs = [(gradient, of_mean)]
    if weighted:  # what its tokens get differs, and adds up to the same
        pairs = [(gradient[one:end].sum(), of_mean[one:end].sum()) for one, end in spans]
    for token_by_token, together in pairs:
        torch.testing.assert_close(token_by_token, together, rtol=1e-7, atol=1e-12)


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), seed=st.integers(0, 99))
def test_loss_of_any_batch_equals_a_second_telling(
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


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), planted=st.sampled_from([N, 1e38]))
def test_what_stands_outside_steps_changes_nothing(
    rollouts: list[Rollout], loss: LossConfig, planted: float, impl: str
) -> None:
    batch = packed(rollouts)
    clean = loss_and_gradient(batch, inputs(batch, loss, fill=0.0), loss, impl)
    for fill in (planted, math.inf, -math.inf):
        value, gradient = loss_and_gradient(batch, inputs(batch, loss, fill=fill), loss, impl)
        assert value.equal(clean[0])
        assert gradient.equal(clean[1])
    outside = torch.ones(batch.num_tokens, dtype=torch.bool)
    outside[batch.policy_token] = False
    assert clean[1][outside].eq(0).all()


@given(rollouts=rollout_lists(), loss=st.sampled_from(CONFIGS), extra=st.integers(0, 5))
def test_packed_and_padded_layouts_and_longer_observations_agree(
    rollouts: list[Rollout], loss: LossConfig, extra: int, impl: str
) -> None:
    longer = [replace(rollout, gap=(7, 0)) for rollout in rollouts]
    results = []
    for batch in (packed(rollouts), padded(rollouts, extra=extra), packed(longer)):
        value, gradient = loss_and_gradient(batch, inputs(batch, loss), loss, impl)
        results.append((value, gradient[batch.policy_token]))
    for value, gradient in results[1:]:
        assert value.equal(results[0][0])
        assert gradient.equal(results[0][1])


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


@given(
    rollouts=rollout_lists(min_size=2, max_size=9),
    loss=st.sampled_from(CONFIGS),
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
def test_micro_batches_with_global_counts_add_up_to_the_whole(
    rollouts: list[Rollout], loss: LossConfig, cuts: list[int], impl: str
) -> None:
    whole = packed(rollouts)
    tensors = inputs(whole, loss)
    value, gradient = loss_and_gradient(whole, tensors, loss, impl)
    counts = {
        "num_policy_tokens": whole.num_policy_tokens,
        "num_rollouts": whole.num_rollouts,
        "num_steps": whole.num_steps,
    }
    part_value, part_gradient = torch.zeros_like(value), []
    edges = sorted({0, *(min(cut, len(rollouts)) for cut in cuts), len(rollouts)})
    token = step = 0
    for start, end in pairwise(edges):
        part = packed(rollouts[start:end])
        tokens = slice(token, token + part.num_tokens)
        steps = slice(step, step + part.num_steps)
        token, step = tokens.stop, steps.stop
        some = {
            name: tensor[steps if name == "step_advantage" else tokens]
            for name, tensor in tensors.items()
        }
        each = loss_and_gradient(part, some, loss, impl, **counts)
        part_value += each[0]
        part_gradient.append(each[1])
    torch.testing.assert_close(part_value, value)
    torch.testing.assert_close(torch.cat(part_gradient), gradient, rtol=1e-12, atol=1e-15)


def test_counts_may_be_tensors_from_a_reduction(impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(aggregation="step_mean")
    tensors = inputs(batch, loss)
    whole, _ = loss_and_gradient(batch, tensors, loss, impl, num_steps=torch.tensor([20]))
    alone, _ = loss_and_gradient(batch, tensors, loss, impl)
    torch.testing.assert_close(whole * 20, alone * batch.num_steps)


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

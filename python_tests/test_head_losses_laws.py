"""Laws of the losses from hidden states and from logits, for any batch and any settings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import LossConfig, StepBatch, linear_policy_loss, logits_policy_loss
from finestep_fast.arguments import COUNT_OF_AGGREGATION
from support.batches import SHAPES, Rollout, packed, padded, parts, rollout_lists
from support.head_losses import LOSS_CONFIGS, as_logits, evaluated, inputs, leaves_of
from support.heads import NAN, outside, temperatures
from support.impls import ROW_IMPLS
from support.loops import loop_logits, loop_policy_loss, loop_token_logp

IMPLS = ["reference", *ROW_IMPLS]
CONFIGS = st.sampled_from(LOSS_CONFIGS)
CHUNKS = st.sampled_from([1, 900, 10**6])
RAGGED = SHAPES["odd sizes, groups interleaved"]
V, D = 11, 3

pytestmark = [
    pytest.mark.parametrize("impl", IMPLS),
    pytest.mark.parametrize("source", ["hidden", "logits"]),
]
# Every example is a forward and a backward pass or more, for two sources and all implementations.
few = settings(max_examples=max(settings().max_examples // 4, 10))
half = settings(max_examples=max(settings().max_examples // 2, 10))


def tensors_of(source: str, batch: StepBatch, loss: LossConfig, seed: int = 0) -> dict[str, Any]:
    made = inputs(batch, loss, vocabulary=V, size=D, seed=seed)
    return made if source == "hidden" else as_logits(made)


def results(
    source: str, tensors: dict[str, Any], batch: StepBatch, impl: str, **more: Any
) -> dict[str, Tensor]:
    """Return what comes back, with an entropy bonus, at a temperature for each token."""
    if source == "logits":
        more.pop("chunk_bytes", None)
    return evaluated(
        tensors,
        batch,
        impl,
        **{"entropy_weight": 0.2, "temperature": temperatures(batch), **more},
    )


@few
@given(rollouts=rollout_lists(max_size=5), loss=CONFIGS, seed=st.integers(0, 99), chunk=CHUNKS)
def test_the_loss_equals_a_second_computation_in_loops(
    rollouts: list[Rollout], loss: LossConfig, seed: int, chunk: int, source: str, impl: str
) -> None:
    batch = packed(rollouts)
    tensors = inputs(batch, replace(loss, kl="k3"), vocabulary=V, size=D, seed=seed)
    some = batch.policy_token
    of_tokens = {
        name: tensors[name][some].tolist()
        for name in ("token_logp_old", "token_logp_ref", "token_weight")
    }
    head = (tensors[name].tolist() for name in ("weight", "bias"))
    logits = loop_logits(tensors["hidden"][some].tolist(), *head)
    heat = temperatures(batch)[some].tolist()
    logp, entropy = loop_token_logp(logits, tensors["target"][some].tolist(), heat)
    expected = loop_policy_loss(
        rollouts,
        loss=loss,
        token_logp=logp,
        **of_tokens,
        step_advantage=tensors["step_advantage"].tolist(),
        token_bonus=[0.2 * each for each in entropy],
    )
    if loss.kl is None:
        del tensors["token_logp_ref"]
    if source == "logits":
        tensors = as_logits(tensors)
    found = results(source, tensors, batch, impl, loss=loss, chunk_bytes=chunk)
    assert found["loss"].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    mean = math.fsum(entropy) / max(len(entropy), 1)
    assert found["entropy"].item() == pytest.approx(mean, rel=1e-10)


@half
@given(
    rollouts=rollout_lists(),
    loss=CONFIGS,
    planted=st.sampled_from([NAN, math.inf, -math.inf, 1e38]),
    word=st.sampled_from([-1, V, -(2**63), 2**63 - 1]),
)
def test_what_stands_outside_steps_is_never_read(
    rollouts: list[Rollout], loss: LossConfig, planted: float, word: int, source: str, impl: str
) -> None:
    batch = packed(rollouts)
    tensors, observed = tensors_of(source, batch, loss), outside(batch)
    own = tensors.keys() - {"weight", "bias", "step_advantage"}
    heat = temperatures(batch)
    found = []
    for other in (0.0, planted):
        for name in own:
            tensors[name] = tensors[name].clone()
            tensors[name][observed] = word if name == "target" and other else other
        heat[observed] = other
        found.append(results(source, tensors, batch, impl, loss=loss, temperature=heat))
    for name, value in found[1].items():
        assert value.equal(found[0][name]), name
        assert value.isfinite().all(), name
    of_rows = found[0]["gradient of hidden" if source == "hidden" else "gradient of logits"]
    assert of_rows[observed].eq(0).all()


@few
@given(rollouts=rollout_lists(), loss=CONFIGS, extra=st.integers(0, 5), chunk=CHUNKS)
def test_packed_and_padded_layouts_and_longer_observations_give_the_same_bits(
    rollouts: list[Rollout], loss: LossConfig, extra: int, chunk: int, source: str, impl: str
) -> None:
    longer = [replace(rollout, gap=(7, 0)) for rollout in rollouts]
    found = []
    for batch in (packed(rollouts), padded(rollouts, extra=extra), packed(longer)):
        tensors = tensors_of(source, batch, loss)
        one = results(source, tensors, batch, impl, loss=loss, chunk_bytes=chunk)
        for name in ("gradient of hidden", "gradient of logits"):
            if name in one:
                one[name] = one[name][batch.policy_token]
        found.append(one)
    for other in found[1:]:
        assert all(value.equal(found[0][name]) for name, value in other.items())


@half
@given(
    rollouts=rollout_lists(min_size=2, max_size=9),
    loss=CONFIGS,
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
def test_micro_batches_with_global_counts_add_up_to_the_whole(
    rollouts: list[Rollout], loss: LossConfig, cuts: list[int], source: str, impl: str
) -> None:
    whole = packed(rollouts)
    tensors, heat = tensors_of(source, whole, loss), temperatures(whole)
    expected = results(source, tensors, whole, impl, loss=loss)
    count = COUNT_OF_AGGREGATION[loss.aggregation]
    leaves = leaves_of(tensors)
    entry_point = linear_policy_loss if source == "hidden" else logits_policy_loss
    tensors |= leaves
    total = torch.zeros(()).double()
    for part, tokens, steps in parts(rollouts, cuts):
        places = {"step_advantage": steps, "weight": slice(None), "bias": slice(None)}
        some: dict[str, Any] = {
            name: value[places.get(name, tokens)] for name, value in tensors.items()
        }
        more = {"loss": loss, "entropy_weight": 0.2, count: getattr(whole, count)}
        out = entry_point(**some, batch=part, temperature=heat[tokens], impl=impl, **more)
        out.loss.backward()
        total += out.loss.detach()
    torch.testing.assert_close(total, expected["loss"])
    for name, leaf in leaves.items():
        wanted = expected[f"gradient of {name}"]
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-10, atol=1e-13)


@few
@given(rollouts=rollout_lists(), loss=CONFIGS, heat=st.sampled_from([0.25, 3.0]))
def test_a_temperature_is_a_division_of_the_logits(
    rollouts: list[Rollout], loss: LossConfig, heat: float, source: str, impl: str
) -> None:
    batch = packed(rollouts)
    tensors = tensors_of(source, batch, loss)
    cooled = dict(tensors)
    divided = ("weight", "bias") if source == "hidden" else ("logits",)
    for name in divided:
        cooled[name] = tensors[name] / heat
    found = results(source, tensors, batch, impl, loss=loss, temperature=heat)
    other = results(source, cooled, batch, impl, loss=loss, temperature=1.0)
    for name in divided:
        other[f"gradient of {name}"] /= heat
    for name, value in other.items():
        torch.testing.assert_close(value, found[name], rtol=1e-9, atol=1e-12, msg=name)


@few
@given(rollouts=rollout_lists(), loss=CONFIGS, seed=st.integers(0, 99))
def test_words_may_be_renumbered_and_all_logits_be_raised(
    rollouts: list[Rollout], loss: LossConfig, seed: int, source: str, impl: str
) -> None:
    batch = packed(rollouts)
    tensors = tensors_of(source, batch, loss)
    order = torch.randperm(V, generator=torch.Generator().manual_seed(seed))
    other = dict(tensors)
    other["target"] = tensors["target"].clone()
    some = batch.policy_token
    other["target"][some] = order.argsort()[tensors["target"][some]]
    if source == "hidden":
        other["weight"], other["bias"] = tensors["weight"][order], tensors["bias"][order] + 3
    else:
        other["logits"] = tensors["logits"][:, order] + 3
    found = results(source, tensors, batch, impl, loss=loss)
    again = results(source, other, batch, impl, loss=loss)
    for name in ("gradient of weight", "gradient of bias"):
        if name in found:
            found[name] = found[name][order]
    if source == "logits":
        found["gradient of logits"] = found["gradient of logits"][:, order]
        # So the gradient of a row has no part along the direction in which nothing changes.
        apart = again["gradient of logits"].sum(-1)
        torch.testing.assert_close(apart, torch.zeros_like(apart), rtol=0, atol=1e-13)
    for name, value in again.items():
        torch.testing.assert_close(value, found[name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_count_may_be_a_tensor_from_a_reduction(source: str, impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(aggregation="step_mean")
    tensors = tensors_of(source, batch, loss)
    assert batch.num_steps == 10
    found = results(source, tensors, batch, impl, loss=loss, num_steps=torch.tensor([16]))
    alone = results(source, tensors, batch, impl, loss=loss)
    for name, value in found.items():
        if name == "loss" or name.startswith("gradient"):
            torch.testing.assert_close(value * 1.6, alone[name], msg=name)


def test_only_the_policys_logits_get_a_gradient(source: str, impl: str) -> None:
    batch, loss = packed(RAGGED), LossConfig(kl="k3", kl_weight=0.1)
    tensors = tensors_of(source, batch, loss)
    for value in tensors.values():
        if value.is_floating_point():
            value.requires_grad_()
    heat = temperatures(batch).requires_grad_()
    entry_point = linear_policy_loss if source == "hidden" else logits_policy_loss
    out = entry_point(**tensors, batch=batch, loss=loss, temperature=heat, impl=impl)
    out.loss.backward()
    wanted = {"hidden", "weight", "bias"} if source == "hidden" else {"logits"}
    assert {name for name, value in tensors.items() if value.grad is not None} == wanted
    assert heat.grad is None
    assert not any(value.requires_grad for value in out.metrics.values())


@pytest.mark.parametrize("shape", ["everything masked", "nothing at all"])
def test_a_batch_without_steps_has_loss_0_and_gradients_0(
    source: str, impl: str, shape: str
) -> None:
    batch = packed(SHAPES[shape])
    loss = LossConfig(ratio="step")
    found = results(source, tensors_of(source, batch, loss), batch, impl, loss=loss)
    for name, value in found.items():
        assert value.eq(0).all() or name not in ("loss", "entropy"), name
        assert not name.startswith("gradient") or value.eq(0).all(), name
